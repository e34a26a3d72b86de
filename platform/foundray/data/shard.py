"""One unit of raw files becomes one shard: read, cut into samples, write, checksum."""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from foundray.contract import Values
from foundray.data.files import RawFile
from foundray.data.manifest import Shard, rows_per_group
from foundray.data.pack import Packer, to_table
from foundray.data.sources import BadRow, Document, in_batches, read_documents, read_rows
from foundray.data.tokenizer import Tokenizer
from foundray.errors import InputError
from foundray.spec import Source
from foundray.storage import Store

_Read = TypeVar("_Read", Document, dict[str, Any])


@dataclass(frozen=True)
class Unit:
    """The raw files that become one shard."""

    name: str
    source: int
    files: tuple[RawFile, ...]


def make_shard(folder_url: str, unit: Unit, source: Source, cutter: Tokenizer | Values, length: int, limit: int) -> Shard:
    """Read, cut into samples of `length` units and write one unit: its shard, its quarantine file, and last its record.

    A tokenizer cuts documents, which are packed; a modality of values has rows of its own.
    """
    folder = Store.at(folder_url)
    quarantine, counts = io.StringIO(), {"documents": 0, "text_bytes": 0, "bad": 0}

    def usable(read: Callable[[RawFile], Iterator[_Read | BadRow]]) -> Iterator[_Read]:
        for file in unit.files:
            for row in read(file):
                if isinstance(row, BadRow):
                    counts["bad"] += 1
                    quarantine.write(json.dumps({"source": file.url, "position": row.position, "reason": row.reason}) + "\n")
                    if counts["bad"] > limit:
                        raise InputError(too_many(limit, f"the last: {file.url}, {row.position}: {row.reason}"))
                else:
                    counts["documents"] += 1
                    counts["text_bytes"] += len(row.text.encode()) if isinstance(row, Document) else 0
                    yield row

    target = folder / f"shards/{unit.name}.parquet"
    with target.replacing() as stream:
        sink = _HashingSink(stream)
        if isinstance(cutter, Values):
            modality = cutter
            tables = _values(usable(lambda file: read_rows(file, source, modality, length)), length)
        else:
            tables = _tokens(usable(lambda file: read_documents(file, source)), cutter, length)
        rows, tokens = _write(sink, tables)
    if not rows:
        target.filesystem.delete_file(target.path)
    shard = Shard(
        file=f"shards/{unit.name}.parquet",
        source=unit.source,
        inputs=[file.url for file in unit.files],
        documents=counts["documents"],
        rows=rows,
        tokens=tokens,
        text_bytes=counts["text_bytes"],
        bytes=sink.size,
        sha256=sink.sha.hexdigest(),
        quarantined=counts["bad"],
    )
    (folder / f"quarantine/{unit.name}.jsonl").write_text(quarantine.getvalue())
    (folder / f"units/{unit.name}.json").write_text(shard.model_dump_json())
    return shard


def _tokens(documents: Iterator[Document], tokenizer: Tokenizer, length: int) -> Iterator[tuple[pa.Table, int]]:
    """Row groups, and the tokens predicted in each: the full ones as they are ready, and the rest at the end."""
    packer, group = Packer(length, tokenizer.document_id), rows_per_group(length, tokens=True)

    def table(samples: list[np.ndarray]) -> tuple[pa.Table, int]:
        return to_table(samples), sum(len(sample) - 1 for sample in samples)

    for batch in in_batches(documents):
        for ids in tokenizer.encode([document.text for document in batch]):
            packer.add(ids)
        while packer.ready >= group:
            yield table(packer.take(group))
    yield table(packer.take(end=True))


def _values(rows: Iterator[dict[str, Any]], length: int) -> Iterator[tuple[pa.Table, int]]:
    """Row groups, and the units in each."""
    while group := list(islice(rows, rows_per_group(length, tokens=False))):
        yield pa.Table.from_pylist(group), len(group) * length


def _write(sink: _HashingSink, tables: Iterator[tuple[pa.Table, int]]) -> tuple[int, int]:
    """Write a Parquet file, each table a row group; gives rows and units."""
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
    """Passes bytes on and keeps their SHA-256."""

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


def too_many(limit: int, evidence: str) -> str:
    return f"more than {limit} bad rows ({evidence}); mend the data or raise data.max_bad_rows"
