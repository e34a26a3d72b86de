"""Repeated documents and lines, found in documents that arrive in pieces."""

from __future__ import annotations

import hashlib

from foundray.data.tokenizers.long_documents import Piece
from foundray.planning.seen import HASH, Seen

LONG_LINE = 32
"""Bytes from which on a repeated line is no accident."""
LONGEST_LINE = 2**20
"""Bytes by which a line is distinguished."""


class SeenText:
    """Documents, compared by their words without the white space, and their long lines."""

    def __init__(self) -> None:
        self.documents, self.lines = Seen(), Seen()
        self._begin()

    def _begin(self) -> None:
        self.words = hashlib.blake2b(digest_size=HASH)
        self.begun = self.within = False
        """Whether there were words, and whether the last piece ended inside one."""
        self.line, self.more = b"", 0
        """The start of the line that continues in the next piece, and the bytes dropped from it."""

    def add(self, piece: Piece) -> None:
        """Add the next piece; the pieces of a document follow one another."""
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
                key = line.strip()
                self.lines.add(key, len(key) + self.more)
            self.more = 0
        self.more += max(0, len(self.line) - LONGEST_LINE)
        self.line = self.line[:LONGEST_LINE]
