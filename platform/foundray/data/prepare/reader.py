"""Reads other data as a run's own was read: raw files to rows, rows to units. It needs no torch, so it is quick to start."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, Protocol
from urllib.parse import unquote

import numpy as np

from foundray.contract import Modality, Units, Values
from foundray.data.files.files import Found, RawFile, look
from foundray.data.prepare.quarantine import is_note
from foundray.data.prepare.sources import BadRow, read_documents, read_located_rows
from foundray.data.tokenizers.encoding import encode_one, encode_or_reason
from foundray.data.tokenizers.long_documents import Cutter, Piece, in_batches
from foundray.data.tokenizers.tokenizer import Tokenizer
from foundray.errors import InputError
from foundray.host.threads import one_blas_thread
from foundray.spec import SourceConfig, Spec
from foundray.spec.formats import ARCHIVES, FORMATS, listed
from foundray.storage import Store
from foundray.urls import split_query

TEXTS_AT_ONCE = 256
"""Documents tokenized in one call, at most: the first rows are asked for before the last are read."""


@dataclass(frozen=True)
class Row:
    """A sample's worth of raw data, and where it comes from."""

    file: str
    """URL of the file."""
    name: str
    """Path of the file, or its name in the archive."""
    position: str
    """Where in it: `image 3`, `line 7, step 0, channel 2`, `document 4`."""
    content: dict[str, Any] | np.ndarray
    """A modality's row, or [T] token ids."""
    number: int = 0
    """Counted from 0 in the file, with the rows that cannot be used, but without notes: of a row, or of the document that it is
    a piece of."""
    piece: int | None = None
    """Which piece of a document that is longer than a sample."""
    text: str | None = None
    """Of tokens: what they say."""
    location: str = ""
    """Of tokens: where in the file the document is, by line or row: `line 7`. Unlike a count it does not depend on damage."""

    @property
    def id(self) -> str:
        """A name that no other row has, and that follows from the files alone: `/data/a.txt#12`, or of a piece `#12.0`."""
        return f"{self.file}#{self.number}" + ("" if self.piece is None else f".{self.piece}")

    @property
    def place(self) -> str:
        """The position, for people: with the file's name in an archive, and which piece it is."""
        place = split_query(self.file)[0]
        member = "" if place.endswith(self.name) or unquote(place).endswith(self.name) else self.name
        piece = "" if self.piece is None else f"piece {self.piece}"
        return ", ".join(part for part in (member, self.position, piece) if part)


class Origin(Protocol):
    """A run, or what was exported of one."""

    folder: Store
    """Holds the tokenizer.json, of tokens."""

    def spec(self) -> Spec: ...

    def manifest(self) -> dict[str, Any]:
        """Of its data: `context`, `vocabulary` and `document_id` at least."""


class Reader:
    """Reads other data as a run's own was read: the same modality, tokenizer and length."""

    def __init__(self, run: Origin):
        """Raises InputError for a run whose record cannot be read."""
        manifest, spec = run.manifest(), run.spec()
        self.modality: Modality = spec.data.modality.build()
        self.length, self.shape = manifest["context"], spec.unit_shape(manifest["vocabulary"])
        if not isinstance(self.modality, Values):
            text = (run.folder / "tokenizer.json").read_text()
            self.tokenizer = Tokenizer.from_json(text, manifest["document_id"])

    def read(self, source: SourceConfig) -> Iterator[Row | BadRow]:
        """The source's rows, in order. Raises InputError for a source that cannot be read."""
        for file in self.files(source):
            yield from self.rows(file, source)

    def files(self, source: SourceConfig) -> list[RawFile]:
        """The source's files. Raises InputError where there are none, and for a format that the run's data is not in."""
        return self.look(source).files

    def look(self, source: SourceConfig) -> Found:
        """The same, with what was left out."""
        values = self.modality if isinstance(self.modality, Values) else None
        if source.format not in ("auto", *ARCHIVES) and (source.format == "files") != (values is not None):
            right = f"files, or {listed(ARCHIVES)}" if values else listed(FORMATS)
            raise InputError(f"{source.path}: the run's data is read from {right}, not from {source.format}")
        return look(source, values.endings if values else ())

    def rows(self, file: RawFile, source: SourceConfig) -> Iterator[Row | BadRow]:
        """Of one of the source's files, in order."""
        if not isinstance(self.modality, Values):
            yield from self._documents(file, source)
            return
        number = 0
        for name, position, row in read_located_rows(file, source, self.modality, self.length):
            yield row if isinstance(row, BadRow) else Row(file.url, name, position, row, number)
            number += not (isinstance(row, BadRow) and is_note(row))

    def _documents(self, file: RawFile, source: SourceConfig) -> Iterator[Row | BadRow]:
        """Documents, in pieces of at most the run's context, each opened as in training."""
        name, number, lost = Store.at(file.url).path, -1, None
        strip = _Strip(0)
        for some in in_batches(self._texts(file, source), TEXTS_AT_ONCE):
            found = iter(encode_or_reason(self.tokenizer, [text.text for text in some if isinstance(text, Piece)]))
            for text in some:
                if isinstance(text, BadRow):
                    number += not is_note(text)
                    yield text
                    continue
                ids = next(found)
                if text.first:
                    number, strip = number + 1, _Strip(self.length - 1)
                if isinstance(ids, str) and text.document is not lost:
                    yield BadRow(text.document.position, ids, 1, "document")
                    lost = text.document
                if isinstance(ids, str) or text.document is lost:
                    continue
                for piece, x, said in strip.add(text, ids, self.tokenizer):
                    position = text.document.position
                    yield Row(file.url, name, f"document {number}", self._opened(x), number, piece, said, position)

    def _texts(self, file: RawFile, source: SourceConfig) -> Iterator[Piece | BadRow]:
        cutter = Cutter(self.tokenizer)
        for document in read_documents(file, source):
            if isinstance(document, BadRow):
                yield document
            else:
                yield from cutter.pieces(document)

    def _opened(self, ids: np.ndarray) -> np.ndarray:
        return np.concatenate([[self.tokenizer.document_id], ids]).astype(np.int64)

    def text_units(self, text: str) -> Units:
        """Of a text that is a document of its own: of as much of its start as fits. Raises InputError."""
        return Units(self._opened(encode_one(self.tokenizer, text)[: self.length - 1]), None, self.shape)

    def units(self, row: Row) -> Units:
        if isinstance(row.content, dict):
            return self.row_units(row.content)
        return Units(row.content, None, self.shape)

    def row_units(self, content: dict[str, Any]) -> Units:
        """Of a row of a modality that has rows of its own, as it is read without augmentation."""
        assert isinstance(self.modality, Values)
        with one_blas_thread():  # as in training
            return replace(self.modality.units(content, self.length, None), shape=self.shape)


class _Strip:
    """A document's tokens, cut into pieces of equal length as they come; the last one is shorter."""

    def __init__(self, room: int):
        self.room = room
        """Tokens in a piece."""
        self.ids, self.starts = np.empty(0, np.int32), np.empty(0, np.int64)
        """Tokens that are not in a piece yet, and where in `text` they start."""
        self.text, self.pieces = "", 0

    def add(self, more: Piece, ids: np.ndarray, tokenizer: Tokenizer) -> Iterator[tuple[int | None, np.ndarray, str]]:
        """(number, [T] ids, text) of each piece that is complete; a document that fits is one piece without a number."""
        if more.first and more.last and len(ids) <= self.room:
            yield None, ids, more.text
            return
        self.starts = np.concatenate([self.starts, np.array(tokenizer.starts(more.text), np.int64) + len(self.text)])
        self.ids, self.text = np.concatenate([self.ids, ids]), self.text + more.text
        at = said = 0
        while len(self.ids) - at > self.room:
            end = int(self.starts[at + self.room])
            yield self.pieces, self.ids[at : at + self.room], self.text[said:end]
            self.pieces, at, said = self.pieces + 1, at + self.room, end
        self.ids, self.starts, self.text = self.ids[at:], self.starts[at:] - said, self.text[said:]
        if more.last and (len(self.ids) or not self.pieces):
            yield self.pieces if self.pieces else None, self.ids, self.text
