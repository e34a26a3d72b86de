"""Reads other data the way a run's own was read: raw files to rows, rows to units. Needs no torch, so it starts quickly."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, Protocol
from urllib.parse import unquote

import numpy as np

from foundray.contract import Modality, Units, Values
from foundray.data.files.files import Found, RawFile, look
from foundray.data.formats import rewritten
from foundray.data.prepare.quarantine import is_note
from foundray.data.prepare.recipe import rewrites_of
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
"""Most documents tokenized in one call: callers want the first rows before the last are read."""


@dataclass(frozen=True)
class Row:
    """Raw data for one sample, and where it comes from."""

    file: str
    """URL of the file."""
    name: str
    """Path of the file, or its name in the archive."""
    position: str
    """Position in it: `image 3`, `line 7, step 0, channel 2`, `document 4`."""
    content: dict[str, Any] | np.ndarray
    """A modality's row, or [T] token ids."""
    number: int = 0
    """Number of the row in the file, or of the document that it is a piece of. Counts from 0 and includes rows that cannot be
    used, but not notes."""
    piece: int | None = None
    """Number of the piece, for a document that is longer than a sample."""
    text: str | None = None
    """For tokens: their text."""
    location: str = ""
    """For tokens: the document's line or row in the file: `line 7`. Unlike a count, it does not depend on damage."""

    @property
    def id(self) -> str:
        """Unique name that depends on the files alone: `/data/a.txt#12`, or `#12.0` for a piece."""
        return f"{self.file}#{self.number}" + ("" if self.piece is None else f".{self.piece}")

    @property
    def place(self) -> str:
        """Position for people, with the file's name in an archive and the piece."""
        path = split_query(self.file)[0]
        member = "" if path.endswith(self.name) or unquote(path).endswith(self.name) else self.name
        piece = "" if self.piece is None else f"piece {self.piece}"
        return ", ".join(part for part in (member, self.position, piece) if part)


class Origin(Protocol):
    """A run, or an export of one."""

    folder: Store
    """For tokens: the folder with the tokenizer.json."""

    def spec(self) -> Spec: ...

    def manifest(self) -> dict[str, Any]:
        """Manifest of its data, with at least `context`, `vocabulary` and `document_id`."""


class Reader:
    """Reads other data with a run's modality, tokenizer and sample length."""

    def __init__(self, run: Origin):
        """Raises InputError if the run's manifest or spec cannot be read."""
        manifest, spec = run.manifest(), run.spec()
        self.modality: Modality = spec.data.modality.build()
        self.length, self.shape = manifest["context"], spec.unit_shape(manifest["vocabulary"])
        if not isinstance(self.modality, Values):
            text = (run.folder / "tokenizer.json").read_text()
            self.tokenizer = Tokenizer.from_json(text, manifest["document_id"])
            self.rewrites = rewrites_of(manifest.get("recipe", {}), spec)

    def read(self, source: SourceConfig) -> Iterator[Row | BadRow]:
        """Yield the source's rows in order. Raises InputError for a source that cannot be read."""
        for file in self.files(source):
            yield from self.rows(file, source)

    def files(self, source: SourceConfig) -> list[RawFile]:
        """List the source's files. Raises InputError if there are none, or if the format does not fit the run's modality."""
        return self.look(source).files

    def look(self, source: SourceConfig) -> Found:
        """Like `files`, with what was left out."""
        values = self.modality if isinstance(self.modality, Values) else None
        if source.format not in ("auto", *ARCHIVES) and (source.format == "files") != (values is not None):
            right = f"files, or {listed(ARCHIVES)}" if values else listed(FORMATS)
            raise InputError(f"{source.path}: the run's data is read from {right}, not from {source.format}")
        return look(source, values.endings if values else ())

    def rows(self, file: RawFile, source: SourceConfig) -> Iterator[Row | BadRow]:
        """Yield the rows of one of the source's files, in order."""
        if not isinstance(self.modality, Values):
            yield from self._documents(file, source)
            return
        number = 0
        for name, position, row in read_located_rows(file, source, self.modality, self.length):
            yield row if isinstance(row, BadRow) else Row(file.url, name, position, row, number)
            number += not (isinstance(row, BadRow) and is_note(row))

    def _documents(self, file: RawFile, source: SourceConfig) -> Iterator[Row | BadRow]:
        """Yield documents in pieces of at most the run's context, each with the opening token, as in training."""
        name, number, lost = Store.at(file.url).path, -1, None
        pieces = _TokenPieces(0)
        for batch in in_batches(self._texts(file, source), TEXTS_AT_ONCE):
            encoded = iter(encode_or_reason(self.tokenizer, [text.text for text in batch if isinstance(text, Piece)]))
            for text in batch:
                if isinstance(text, BadRow):
                    number += not is_note(text)
                    yield text
                    continue
                ids = next(encoded)
                if text.first:
                    number, pieces = number + 1, _TokenPieces(self.length - 1)
                # A document is lost as a whole, and reported once, if the tokenizer fails on a part of it.
                if isinstance(ids, str) and text.document is not lost:
                    yield BadRow(text.document.position, ids, 1, "document")
                    lost = text.document
                if isinstance(ids, str) or text.document is lost:
                    continue
                for piece, x, said in pieces.add(text, ids, self.tokenizer):
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

    def rewritten(self, text: str) -> str:
        """A text as the readers of the run's data would have given it: of nucleotides, in capitals."""
        return rewritten(text, self.rewrites)

    def text_units(self, text: str) -> Units:
        """Units of a text as one document, cut to the context. Raises InputError."""
        ids = encode_one(self.tokenizer, self.rewritten(text))
        return Units(self._opened(ids[: self.length - 1]), None, self.shape)

    def units(self, row: Row) -> Units:
        if isinstance(row.content, dict):
            return self.row_units(row.content)
        return Units(row.content, None, self.shape)

    def row_units(self, content: dict[str, Any]) -> Units:
        """Units of a row of a modality that has its own rows, without augmentation."""
        assert isinstance(self.modality, Values)
        with one_blas_thread():  # as in training
            return replace(self.modality.units(content, self.length, None), shape=self.shape)


class _TokenPieces:
    """Cuts a document's tokens, as they arrive, into pieces of equal length; the last one is shorter."""

    def __init__(self, length: int):
        self.length = length
        """Tokens per piece."""
        self.ids, self.starts = np.empty(0, np.int32), np.empty(0, np.int64)
        """Tokens that are not yet in a piece, and where they start in `text`."""
        self.text, self.pieces = "", 0

    def add(self, more: Piece, ids: np.ndarray, tokenizer: Tokenizer) -> Iterator[tuple[int | None, np.ndarray, str]]:
        """Yield (number, [T] ids, text) of each complete piece; a document that fits is one piece without a number."""
        if more.first and more.last and len(ids) <= self.length:
            yield None, ids, more.text
            return
        self.starts = np.concatenate([self.starts, np.array(tokenizer.starts(more.text), np.int64) + len(self.text)])
        self.ids, self.text = np.concatenate([self.ids, ids]), self.text + more.text
        at = said = 0
        while len(self.ids) - at > self.length:
            end = int(self.starts[at + self.length])
            yield self.pieces, self.ids[at : at + self.length], self.text[said:end]
            self.pieces, at, said = self.pieces + 1, at + self.length, end
        self.ids, self.starts, self.text = self.ids[at:], self.starts[at:] - said, self.text[said:]
        if more.last and (len(self.ids) or not self.pieces):
            yield self.pieces if self.pieces else None, self.ids, self.text
