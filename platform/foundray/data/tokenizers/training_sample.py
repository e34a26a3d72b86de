"""Sample of text that a byte-pair encoding is trained on.

Training takes about 120 bytes of memory per byte of distinct words, and time that grows with the square of a word's length.
Long documents therefore contribute only as many distinct words as fit in memory, and long words in parts.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from foundray.data.formats.row import Document
from foundray.data.tokenizers.long_documents import Cutter
from foundray.data.tokenizers.tokenizer import Tokenizer, untrained

DIFFERENT = 6 * 2**20
"""Most bytes of distinct words from long documents: 700 MB in training. English prose has that many in about 60 MiB."""
WORD = 128
"""Words of a long document with more characters than this are trained on in parts."""


def sample(documents: Iterable[Document], most: float, long_documents: LongDocuments) -> Iterator[str]:
    """Yield the texts of the first documents, `most` bytes in total; the last one may be cut."""
    left = most
    for document in documents:
        yield from long_documents.texts(document, int(left)) if document.long else [document.text[: int(left)]]
        left -= document.size
        if left <= 0:
            return


def without_long_words(texts: Iterable[str]) -> Iterator[str]:
    """Yield texts with long words in parts: training on them may give another tokenizer, but takes an acceptable time."""
    documents = LongDocuments(untrained())
    for text in texts:
        yield from documents.in_parts(text)


class LongDocuments:
    """Texts of long documents in all sources, with a bounded number of distinct words."""

    def __init__(self, untrained: Tokenizer, different: int = DIFFERENT, word: int = WORD):
        self.cutter, self.different, self.word = Cutter(untrained), different, word
        self.seen: set[str] = set()
        self.size = 0
        """Bytes of the distinct words seen."""

    def texts(self, document: Document, most: int) -> Iterator[str]:
        """Yield its first `most` characters, until there are too many distinct words."""
        for piece in self.cutter.pieces(document):
            text = piece.text[:most]
            most -= len(text)
            words = self._words(text)
            new = {part for word in words for part in self._parts(word)} - self.seen
            self.size += sum(len(part.encode()) for part in new)
            if self.size > self.different:
                return
            self.seen |= new
            yield from self._texts_of(words)
            if not most:
                return

    def in_parts(self, text: str) -> Iterator[str]:
        """Yield the text, with long words in parts."""
        return self._texts_of(self._words(text))

    def _words(self, text: str) -> list[str]:
        assert self.cutter.words is not None
        return self.cutter.words(text)

    def _texts_of(self, words: list[str]) -> Iterator[str]:
        """Join the words into texts; the parts of a long word are texts of their own."""
        start = 0
        for at, word in enumerate(words):
            if len(word) > self.word:
                yield "".join(words[start:at])
                yield from self._parts(word)
                start = at + 1
        yield "".join(words[start:])

    def _parts(self, word: str) -> list[str]:
        return [word[start : start + self.word] for start in range(0, len(word), self.word)]
