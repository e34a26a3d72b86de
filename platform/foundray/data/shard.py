"""One unit of raw files becomes one shard: read, tokenize, pack, write, checksum."""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from foundray.data.manifest import Shard, rows_per_group
from foundray.data.pack import SAMPLE_SCHEMA, Packer, to_table
from foundray.data.sources import BadRow, RawFile, read_documents
from foundray.data.tokenizer import Tokenizer
from foundray.errors import InputError
from foundray.spec import Source
from foundray.storage import Store

TEXTS_AT_ONCE = 2**20
"""Characters tokenized in one call."""


@dataclass(frozen=True)
class Unit:
    """The raw files that become one shard."""

    name: str
    source: int
    files: tuple[RawFile, ...]


def make_shard(folder_url: str, unit: Unit, source: Source, tokenizer: Tokenizer, context: int, limit: int) -> Shard:
    """Read, tokenize, pack and write one unit: its shard, then its quarantine file, then its record."""
    folder = Store.at(folder_url)
    quarantine, counts = io.StringIO(), {"documents": 0, "text_bytes": 0, "bad": 0}

    def texts() -> Iterator[str]:
        for file in unit.files:
            for row in read_documents(file, source):
                if isinstance(row, BadRow):
                    counts["bad"] += 1
                    quarantine.write(json.dumps({"source": file.url, "position": row.position, "reason": row.reason}) + "\n")
                    if counts["bad"] > limit:
                        raise InputError(too_many(limit, f"the last: {file.url}, {row.position}: {row.reason}"))
                else:
                    counts["documents"] += 1
                    counts["text_bytes"] += len(row.text.encode())
                    yield row.text

    target = folder / f"shards/{unit.name}.parquet"
    with target.replacing() as stream:
        sink = _HashingSink(stream)
        rows, tokens = _write_samples(sink, _samples(texts(), tokenizer, context), rows_per_group(context))
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


def _samples(texts: Iterator[str], tokenizer: Tokenizer, context: int) -> Iterator[list[np.ndarray]]:
    """Lists of samples: as many full row groups as are ready, and the rest at the end."""
    packer, group = Packer(context, tokenizer.document_id), rows_per_group(context)
    for batch in _batches(texts):
        for ids in tokenizer.encode(batch):
            packer.add(ids)
        while packer.ready >= group:
            yield packer.take(group)
    yield packer.take(end=True)


def _batches(texts: Iterator[str]) -> Iterator[list[str]]:
    batch: list[str] = []
    for text in texts:
        batch.append(text)
        if sum(map(len, batch)) >= TEXTS_AT_ONCE or len(batch) >= 4096:
            yield batch
            batch = []
    yield batch


def _write_samples(sink: _HashingSink, groups: Iterator[list[np.ndarray]], group: int) -> tuple[int, int]:
    """Write a Parquet file of row groups; gives rows and predicted tokens."""
    rows = tokens = 0
    with pq.ParquetWriter(pa.PythonFile(sink, mode="w"), SAMPLE_SCHEMA, compression="zstd", write_page_checksum=True) as writer:
        for samples in groups:
            if samples:
                writer.write_table(to_table(samples), row_group_size=group)
            rows += len(samples)
            tokens += sum(len(sample) - 1 for sample in samples)
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
