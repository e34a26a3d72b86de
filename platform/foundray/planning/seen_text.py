"""Documents and lines that come more than once, found in documents that come in pieces."""

from __future__ import annotations

import hashlib

from foundray.data.tokenizers.long_documents import Piece
from foundray.planning.seen import HASH, Seen

LONG_LINE = 32
"""Bytes from which on a line that comes again is no accident."""
LONGEST_LINE = 2**20
"""Bytes of a line that tell it apart."""


class SeenText:
    """Documents, of which the words count and not the white space between them, and their long lines."""

    def __init__(self) -> None:
        self.documents, self.lines = Seen(), Seen()
        self._begin()

    def _begin(self) -> None:
        self.words = hashlib.blake2b(digest_size=HASH)
        self.begun = self.within = False
        """Whether words have come, and whether the next piece continues the last one."""
        self.line, self.more = b"", 0
        """The start of the line that continues in the next piece, and bytes of it that are left out."""

    def add(self, piece: Piece) -> None:
        """The next piece. Those of a document follow one another."""
        if piece.first:
            self._begin()
        self._add_words(piece.text)
        self._add_lines(piece)
        if piece.last:
            self.documents.add_hash(self.words, piece.document.size)

    def _add_words(self, text: str) -> None:
        words = text.split()
        if words:
            apart = self.begun and not (self.within and not text[0].isspace())
            self.words.update(((" " if apart else "") + " ".join(words)).encode())
        self.begun = self.begun or bool(words)
        self.within = bool(words) and not text[-1].isspace()

    def _add_lines(self, piece: Piece) -> None:
        lines = piece.text.encode().split(b"\n")
        lines[0] = self.line + lines[0]
        self.line = b"" if piece.last else lines.pop()
        for line in lines:
            if len(line) >= LONG_LINE:
                told_apart_by = line.strip()
                self.lines.add(told_apart_by, len(told_apart_by) + self.more)
            self.more = 0
        self.more += max(0, len(self.line) - LONGEST_LINE)
        self.line = self.line[:LONGEST_LINE]
