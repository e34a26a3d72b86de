"""The sample of text that a byte-pair encoding is trained on.

Training takes about 120 bytes per byte of different words, and a time that grows with the square of a word's length. From long
documents it therefore gets only so many different words as fit in memory, and long words in parts.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from foundray.data.formats.row import Document
from foundray.data.tokenizers.long_documents import Cutter
from foundray.data.tokenizers.tokenizer import Tokenizer, untrained

DIFFERENT = 6 * 2**20
"""Bytes of different words that are taken from long documents: 700 MB in training. English prose has them in about 60 MiB."""
WORD = 128
"""Characters from which on a word of a long document is trained on in parts."""


def sample(documents: Iterable[Document], most: float, of_long: LongDocuments) -> Iterator[str]:
    """Texts of the first documents, of `most` bytes together; the last one may be cut off."""
    left = most
    for document in documents:
        yield from of_long.texts(document, int(left)) if document.long else [document.text[: int(left)]]
        left -= document.size
        if left <= 0:
            return


def without_long_words(texts: Iterable[str]) -> Iterator[str]:
    """Texts with long words in parts: another tokenizer may be trained on them, but in an acceptable time."""
    every = LongDocuments(untrained())
    for text in texts:
        yield from every.in_parts(text)


class LongDocuments:
    """Texts of long documents in all sources, with a bounded number of different words."""

    def __init__(self, untrained: Tokenizer, different: int = DIFFERENT, word: int = WORD):
        self.cutter, self.different, self.word = Cutter(untrained), different, word
        self.seen: set[str] = set()
        self.size = 0
        """Bytes of the words seen."""

    def texts(self, document: Document, most: int) -> Iterator[str]:
        """Its first `most` characters, up to where there are too many different words."""
        for piece in self.cutter.pieces(document):
            text = piece.text[:most]
            most -= len(text)
            words = self._words(text)
            new = {part for word in words for part in self._parts(word)} - self.seen
            self.size += sum(len(part.encode()) for part in new)
            if self.size > self.different:
                return
            self.seen |= new
            yield from self._apart(words)
            if not most:
                return

    def in_parts(self, text: str) -> Iterator[str]:
        """The text; its long words in parts."""
        return self._apart(self._words(text))

    def _words(self, text: str) -> list[str]:
        assert self.cutter.words is not None
        return self.cutter.words(text)

    def _apart(self, words: list[str]) -> Iterator[str]:
        """Texts that the words make together; a long one's parts are texts of their own."""
        start = 0
        for at, word in enumerate(words):
            if len(word) > self.word:
                yield "".join(words[start:at])
                yield from self._parts(word)
                start = at + 1
        yield "".join(words[start:])

    def _parts(self, word: str) -> list[str]:
        return [word[start : start + self.word] for start in range(0, len(word), self.word)]
