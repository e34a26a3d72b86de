"""One unit of raw files, read once: its counts, and a sample of its text."""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Iterator

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import BaseModel

from foundray.contract import Values
from foundray.data.prepare.quarantine import Found, Tally
from foundray.data.prepare.shard import IN_FLIGHT, Unit
from foundray.data.prepare.sources import BadRow, Document, read_documents, read_rows
from foundray.data.tokenizers.encoding import encode_or_reason
from foundray.data.tokenizers.long_documents import Cutter, Piece, in_batches
from foundray.data.tokenizers.tokenizer import Tokenizer, make_bytes
from foundray.planning.seen import Seen
from foundray.planning.seen_text import SeenText
from foundray.spec import SourceConfig

WORD = r"[\pL\pM\pN_]+(?:['’][\pL\pM]+)*"
"""Letters, marks, digits, and apostrophes between letters: words as in Unicode's UAX 29, for scripts with spaces."""
UNSPACED = r"[\p{Han}\p{Hiragana}\p{Katakana}\p{Thai}\p{Lao}\p{Khmer}\p{Myanmar}]"
"""Letters of scripts that put no space between words."""
PIECE = 8192
"""Characters of a document that are sampled together."""


class Counts(BaseModel):
    """Counts of some raw files. Of values, a document is a sample."""

    documents: float = 0
    bytes: float = 0
    """Bytes of UTF-8 text, or of the samples' encoded values."""
    characters: float = 0
    words: float = 0
    unspaced: float = 0
    """Characters of scripts without spaces between words."""
    tokens: float = 0
    """Tokens by the spec's tokenizer, with the one that opens each document; of values, units."""
    bad_rows: float = 0
    """Units that cannot be used, without empty ones."""

    def times(self, factor: float) -> Counts:
        return Counts(**{name: value * factor for name, value in self})

    @staticmethod
    def together(parts: list[Counts]) -> Counts:
        return Counts(**{name: sum(getattr(part, name) for part in parts) for name in Counts.model_fields})


class Part(BaseModel):
    """Findings of one unit."""

    source: int
    counts: Counts
    documents: str
    """Documents seen, as `Seen.to_text`."""
    lines: str
    """Long lines seen, likewise."""
    pieces: list[str] = []
    """A sample of its text, in order."""
    letters: str = ""
    """Every character that occurs, once."""
    bad: str = ""
    """Position of the first bad row, and the reason."""
    found: Found = Found()
    """What cannot be used, with reasons."""


def read_text_unit(unit: Unit, source: SourceConfig, tokenizer: Tokenizer | None, seed: int, sample_bytes: int) -> Part:
    """Read, count, and keep up to `sample_bytes` of text, chosen by the seed; count tokens if there is a tokenizer.

    A word at which a long document is cut counts twice.
    """
    bad, seen, counts = _Bad(), SeenText(), Counts()
    sample, letters = _Sample(f"{seed} {unit.name}", sample_bytes), set[str]()
    rows = (row for file in unit.files for row in _located(file.url, read_documents(file, source)))
    cutter = Cutter(tokenizer or make_bytes())
    for pieces in in_batches(piece for document in bad.aside(rows) for piece in cutter.pieces(document)):
        if tokenizer:
            pieces, tokens = _tokenized(pieces, tokenizer, bad)
            counts.tokens += tokens
        counts.documents += sum(piece.first for piece in pieces)
        counts.bytes += sum(piece.size for piece in pieces)
        counts.characters += sum(len(piece.text) for piece in pieces)
        for piece in pieces:
            seen.add(piece)
            letters.update(piece.text)
            sample.add(piece.text)
        array = pa.array([piece.text for piece in pieces], pa.large_string())
        counts.words += pc.sum(pc.count_substring_regex(array, WORD)).as_py() or 0
        counts.unspaced += pc.sum(pc.count_substring_regex(array, UNSPACED)).as_py() or 0
    counts.bad_rows = bad.count
    return Part(
        source=unit.source, counts=counts, documents=seen.documents.to_text(), lines=seen.lines.to_text(),
        pieces=sample.pieces(), letters="".join(sorted(letters)), bad=bad.first, found=bad.found(),
    )  # fmt: skip


def _tokenized(pieces: list[Piece], tokenizer: Tokenizer, bad: _Bad) -> tuple[list[Piece], int]:
    """The pieces on which the tokenizer does not fail, and their tokens, with those that open documents."""
    good, tokens = list[Piece](), 0
    for piece, ids in zip(pieces, encode_or_reason(tokenizer, [piece.text for piece in pieces]), strict=True):
        if piece.document is bad.lost:
            continue
        if isinstance(ids, str):
            bad.lose(piece.document, ids)
        else:
            good.append(piece)
            tokens += piece.first + len(ids)
    return good, tokens


def read_values_unit(unit: Unit, source: SourceConfig, modality: Values, length: int) -> Part:
    """Read and count the rows of a modality of values; each is a sample of `length` units."""
    seen, bad, counts = Seen(), _Bad(), Counts()
    for row in bad.aside(row for file in unit.files for row in _located(file.url, read_rows(file, source, modality, length))):
        content = b"\0".join(
            value if isinstance(value, bytes) else np.asarray(value).tobytes() for _, value in sorted(row.items())
        )
        seen.add(content)
        counts.documents += 1
        counts.bytes += len(content)
        counts.tokens += length
    counts.bad_rows = bad.count
    found, nothing = bad.found(), Seen().to_text()
    return Part(source=unit.source, counts=counts, documents=seen.to_text(), lines=nothing, bad=bad.first, found=found)


def _located(url: str, rows: Iterator) -> Iterator:
    return ((url, row) for row in rows)


class _Bad:
    """Separates bad rows, and counts them."""

    def __init__(self) -> None:
        self.tally, self.first = Tally(), ""
        self.passed: deque[tuple[int, str]] = deque(maxlen=IN_FLIGHT)
        """Identity and file of each of the last good rows."""
        self.lost: Document | None = None
        """The last document given to `lose`."""

    @property
    def count(self) -> int:
        return self.tally.balance.bad

    def aside(self, rows: Iterator) -> Iterator:
        for url, row in rows:
            if isinstance(row, BadRow):
                self._add(url, row)
            else:
                self.tally.balance.documents += 1
                self.passed.append((id(row), url))
                yield row

    def lose(self, document: Document, reason: str) -> None:
        """Count a document as bad that was yielded as good."""
        url = next(url for passed, url in reversed(self.passed) if passed == id(document))
        self.lost = document
        self.tally.balance.documents -= 1
        self._add(url, BadRow(document.position, reason, 1, "document"))

    def _add(self, url: str, row: BadRow) -> None:
        line = self.tally.add(url, row)
        if line and line.lost:
            self.first = self.first or f"{line.source}, {line.position}: {line.reason}"

    def found(self) -> Found:
        return self.tally.found()


class _Sample:
    """A uniform sample of pieces of text: those with the smallest random numbers, from a generator of the unit's own."""

    def __init__(self, seed: str, most: int):
        self.rng, self.most = random.Random(seed), most
        self.kept: list[tuple[float, int, str]] = []
        self.characters = self.number = 0

    def add(self, text: str) -> None:
        for start in range(0, len(text), PIECE):
            piece = text[start : start + PIECE]
            self.kept.append((self.rng.random(), self.number, piece))
            self.number += 1
            self.characters += len(piece)
        if self.characters > 2 * self.most:
            self._cut()

    def _cut(self) -> None:
        kept, self.kept, self.characters = sorted(self.kept), [], 0
        for entry in kept:
            if self.characters >= self.most:
                break
            self.kept.append(entry)
            self.characters += len(entry[2])

    def pieces(self) -> list[str]:
        if self.characters > self.most:
            self._cut()
        return [piece for _, _, piece in sorted(self.kept, key=lambda entry: entry[1])]
