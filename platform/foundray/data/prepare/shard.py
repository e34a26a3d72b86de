"""Makes one shard from one unit of raw files: read, cut into samples, write, checksum."""

from __future__ import annotations

import hashlib
import io
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from foundray.contract import Values
from foundray.data.files.files import RawFile
from foundray.data.prepare.limits import Limits
from foundray.data.prepare.manifest import Shard, rows_per_group
from foundray.data.prepare.pack import Packer, to_table
from foundray.data.prepare.quarantine import Tally
from foundray.data.prepare.sources import BadRow, Document, read_documents, read_rows
from foundray.data.tokenizers.encoding import encode_or_reason
from foundray.data.tokenizers.long_documents import Cutter, Piece, in_batches
from foundray.data.tokenizers.tokenizer import Tokenizer
from foundray.spec import SourceConfig
from foundray.storage import Store

IN_FLIGHT = 2**14
"""Most documents read ahead of those whose tokens are written."""

_Read = TypeVar("_Read", Document, dict[str, Any])


@dataclass(frozen=True)
class Unit:
    """The raw files that become one shard."""

    name: str
    source: int
    files: tuple[RawFile, ...]


def make_shard(
    folder_url: str, unit: Unit, source: SourceConfig, cutter: Tokenizer | Values, length: int, limits: Limits
) -> Shard:
    """Read one unit, cut it into samples of `length` units, and write its shard, its quarantine file, and last its record.

    Documents are tokenized and packed; a modality of values has its own rows. Raises InputError if more is bad than `limits`
    allow, after writing the quarantine file.
    """
    folder = Store.at(folder_url)
    intake = Intake(unit, source, limits, folder)
    target = folder / f"shards/{unit.name}.parquet"
    try:
        with target.replacing() as stream:
            sink = _HashingSink(stream)
            if isinstance(cutter, Values):
                modality = cutter
                tables = _values(intake.usable(lambda file: read_rows(file, source, modality, length)), length)
            else:
                tables = _tokens(intake, source, cutter, length)
            rows, tokens = _write(sink, tables)
    finally:
        (folder / f"quarantine/{unit.name}.jsonl").write_text(intake.listed.getvalue())
    if not rows:
        target.filesystem.delete_file(target.path)
    balance = intake.tally.balance
    shard = Shard(
        file=f"shards/{unit.name}.parquet",
        source=unit.source,
        inputs=[file.url for file in unit.files],
        documents=balance.documents,
        rows=rows,
        tokens=tokens,
        text_bytes=intake.text_bytes,
        bytes=sink.size,
        sha256=sink.sha.hexdigest(),
        quarantined=balance.bad,
        lost=balance.lost,
        empty=balance.empty,
        notes=balance.notes,
        cut=intake.cut,
    )
    (folder / f"units/{unit.name}.json").write_text(shard.model_dump_json())
    return shard


class Intake:
    """Reads a unit: passes on what can be used; counts and lists the rest."""

    def __init__(self, unit: Unit, source: SourceConfig, limits: Limits, folder: Store):
        self.unit, self.source, self.limits, self.folder = unit, source, limits, folder
        self.tally, self.listed, self.text_bytes = Tally(), io.StringIO(), 0
        self.cut = 0
        """Documents cut at positions where that may have changed their tokens."""
        self.rejected: Document | None = None
        """The last document that `reject` took back."""
        self.recent: deque[tuple[int, str]] = deque(maxlen=IN_FLIGHT)
        """(identity, file) of the last documents; the documents themselves may be large."""

    def usable(self, read: Callable[[RawFile], Iterator[_Read | BadRow]]) -> Iterator[_Read]:
        """Yield what can be used. Raises InputError if too much is bad."""
        for file in self.unit.files:
            for row in read(file):
                if isinstance(row, BadRow):
                    self._quarantine(file.url, row)
                    continue
                self.tally.balance.documents += 1
                if isinstance(row, Document):
                    self.text_bytes += row.size
                    self.recent.append((id(row), file.url))
                yield row

    def reject(self, document: Document, reason: str, used: int = 0) -> None:
        """Quarantine a document that was passed on, one of the last `IN_FLIGHT`, and turned out to be unusable.

        The first `used` bytes of a long one may already be in samples. Raises InputError if too much is bad.
        """
        url = next(url for identity, url in reversed(self.recent) if identity == id(document))
        self.rejected = document
        self.tally.balance.documents -= 1
        self.text_bytes -= document.size - used
        if used:
            reason += f"; its first {used:,} bytes are used, and the other {document.size - used:,} are missing"
        self._quarantine(url, BadRow(document.position, reason, 1, "document"))

    def _quarantine(self, url: str, row: BadRow) -> None:
        if line := self.tally.add(url, row):
            self.listed.write(line.to_json())
            name = f"data.sources.{self.unit.source}"
            self.limits.check_rows(self.tally.balance.bad, name, self.tally, self.source.path, self.folder.url)


def _tokens(intake: Intake, source: SourceConfig, tokenizer: Tokenizer, length: int) -> Iterator[tuple[pa.Table, int]]:
    """Yield row groups with their number of predicted tokens: full ones as they are ready, and the rest at the end."""
    packer, group = Packer(length, tokenizer.document_id), rows_per_group(length, tokens=True)

    def table(samples: list[np.ndarray]) -> tuple[pa.Table, int]:
        return to_table(samples), sum(len(sample) - 1 for sample in samples)

    for pieces in in_batches(_pieces(intake, source, Cutter(tokenizer))):
        for piece, ids in zip(pieces, encode_or_reason(tokenizer, [piece.text for piece in pieces]), strict=True):
            if piece.document is intake.rejected:
                continue
            if isinstance(ids, str):
                intake.reject(piece.document, ids, piece.before)
            else:
                packer.add(ids, piece.first)
        while packer.ready >= group:
            yield table(packer.take(group))
    yield table(packer.take(end=True))


def _pieces(intake: Intake, source: SourceConfig, cutter: Cutter) -> Iterator[Piece]:
    """Yield the documents' pieces, and stop early in a document that was rejected."""
    for document in intake.usable(lambda file: read_documents(file, source)):
        crossed = False
        for piece in cutter.pieces(document):
            crossed = crossed or piece.crossed
            yield piece
            if document is intake.rejected:
                break
        intake.cut += crossed


def _values(rows: Iterator[dict[str, Any]], length: int) -> Iterator[tuple[pa.Table, int]]:
    """Yield row groups with their number of units."""
    while group := list(islice(rows, rows_per_group(length, tokens=False))):
        yield pa.Table.from_pylist(group), len(group) * length


def _write(sink: _HashingSink, tables: Iterator[tuple[pa.Table, int]]) -> tuple[int, int]:
    """Write tables as the row groups of a Parquet file; returns the numbers of rows and units."""
    rows = tokens = 0
    writer = None
    for table, count in tables:
        if len(table):
            if writer is None:
                file = pa.PythonFile(sink, mode="w")
                writer = pq.ParquetWriter(file, table.schema, compression="zstd", write_page_checksum=True)
            writer.write_table(table, row_group_size=len(table))
        rows, tokens = rows + len(table), tokens + count
    if writer is not None:
        writer.close()
    return rows, tokens


class _HashingSink(io.RawIOBase):
    """Stream that passes bytes on and keeps their SHA-256."""

    def __init__(self, stream: Any):
        super().__init__()
        self.stream, self.sha, self.size = stream, hashlib.sha256(), 0

    def writable(self) -> bool:
        return True

    def write(self, content: Any) -> int:
        self.stream.write(content)
        self.sha.update(content)
        self.size += len(content)
        return len(content)
