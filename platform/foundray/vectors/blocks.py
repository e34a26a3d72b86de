"""Files to blocks: the rows of the data, cut into numbered pieces of work by the files alone, never by the machine.

Neighbouring files are a part; a part's rows, in order, are cut into blocks. What a block holds travels to whoever computes its
vectors as padded batches, the longest rows first, so that there is little padding, and is put back into order there.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np
import pyarrow as pa
from pydantic import BaseModel, ValidationError

from foundray.batch import packed
from foundray.contract import Plan, Units, Unreadable
from foundray.data.files import RawFile, grouped
from foundray.data.reader import Reader, Row
from foundray.data.sources import BadRow
from foundray.errors import InputError
from foundray.spec import Source
from foundray.storage import Store

PART_BYTES, PART_FILES = 16 * 2**20, 4096
BLOCK_ROWS, BLOCK_VALUES = 512, 2**23
"""Rows of a block: fewer where they are large."""
BATCH_UNITS = {"cpu": 2**11, "cuda": 2**16}
"""Units of a batch, with padding, at most, unless one row has more: what stays in a core's cache, and what fills a GPU."""


@dataclass(frozen=True)
class Part:
    """Neighbouring files, which one task reads."""

    name: str
    files: tuple[RawFile, ...]


def parts(files: Iterable[RawFile]) -> list[Part]:
    """In the order of the files."""
    return [Part(f"{number:05d}", group) for number, group in enumerate(grouped(files, PART_BYTES, PART_FILES))]


def rows_per_block(reader: Reader) -> int:
    """As many of the reader's longest rows as are handed over at once."""
    return max(1, min(BLOCK_ROWS, BLOCK_VALUES // (reader.length * max(1, reader.shape.width))))


def read_blocks(
    part: Part, reader: Reader, source: Source, done: Collection[str], limit: int, folder: str, device: str
) -> Iterator[dict[str, Any]]:
    """The part's blocks, but for those that are done, as rows for Ray Data; at its end the part's record is written.

    Raises InputError for a file that cannot be read, and for more bad rows than `limit`.
    """
    record = Record(blocks=0, rows=0, bad=[])
    for rows in _blocks(part, reader, source, limit, record):
        name = block_name(part, record.blocks)
        if name not in done:
            yield {"block": name, **_packed(rows, reader, BATCH_UNITS[device])}
        record.blocks += 1
        record.rows += len(rows)
    record.write(Store.at(folder), part)


class Record(BaseModel):
    """What a part was found to hold, once it has been read to its end."""

    blocks: int
    rows: int
    bad: list[dict[str, str]]
    """Rows that cannot be used: source, position and reason of each."""

    @staticmethod
    def read(folder: Store, part: Part) -> Record | None:
        """None where the part has not been read. Raises InputError where the record is damaged."""
        file = folder / f"parts/{part.name}.json"
        if not file.exists():
            return None
        try:
            return Record.model_validate_json(file.read_bytes())
        except ValidationError:
            raise InputError(f"{file} is damaged; delete it, and the same `foundray embed` makes it anew") from None

    def write(self, folder: Store, part: Part) -> None:
        (folder / f"parts/{part.name}.json").write_text(self.model_dump_json())

    def names(self, part: Part) -> list[str]:
        return [block_name(part, number) for number in range(self.blocks)]


def block_name(part: Part, number: int) -> str:
    return f"{part.name}-{number:06d}"


def _blocks(part: Part, reader: Reader, source: Source, limit: int, record: Record) -> Iterator[list[Row]]:
    size, block = rows_per_block(reader), list[Row]()
    for file in part.files:
        for row in reader.rows(file, source):
            if isinstance(row, BadRow):
                record.bad.append({"source": file.url, "position": row.position, "reason": row.reason})
                if len(record.bad) > limit:
                    raise InputError(too_many(limit, f"the last: {file.url}, {row.position}: {row.reason}"))
                continue
            block.append(row)
            if len(block) == size:
                yield block
                block = []
    if block:
        yield block


def _packed(rows: list[Row], reader: Reader, batch_units: int) -> dict[str, Any]:
    """`batches`, each as bytes; `order`: which row each of the batches' samples is; and `table`: what is told of the rows."""
    units = [_units(row, reader) for row in rows]
    order = np.argsort([-len(one) for one in units], kind="stable")
    columns = {"id": [row.id for row in rows], "source": [row.file for row in rows], "position": [row.place for row in rows]}
    if rows[0].text is not None:
        columns["text"] = [row.text or "" for row in rows]
    table = pa.table(columns)
    with (sink := pa.BufferOutputStream()), pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    batches = [packed([Plan(one, ()) for one in some]) for some in cut([units[index] for index in order], batch_units)]
    return {"batches": batches, "order": order.tolist(), "table": sink.getvalue().to_pybytes()}


def _units(row: Row, reader: Reader) -> Units:
    """Raises InputError for what was readable when the file was opened, and is not when it is decoded."""
    try:
        return reader.units(row)
    except Unreadable as error:
        raise InputError(f"{row.file}, {row.position}: {error}") from None


def cut(units: list[Units], batch_units: int) -> Iterator[list[Units]]:
    """Batches of samples that are sorted, the longest first."""
    rest = iter(units)
    while first := next(rest, None):
        yield [first, *islice(rest, max(1, batch_units // len(first)) - 1)]


def too_many(limit: int, evidence: str) -> str:
    return f"more than {limit} bad rows ({evidence}); mend the data or raise --max-bad-rows"
