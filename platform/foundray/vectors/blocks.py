"""Cuts files into numbered blocks of rows, by the files alone, never by the machine.

A part is a run of neighbouring files. Its rows, in order, are cut into blocks. A block is sent to a worker as padded batches,
sorted by length to save padding; the worker restores the order.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np
import pyarrow as pa
from pydantic import BaseModel, ValidationError

from foundray.cluster.causes import described
from foundray.contract import Plan, Units, Unreadable
from foundray.data.files.files import RawFile, grouped
from foundray.data.prepare.limits import Limits
from foundray.data.prepare.quarantine import Balance, Line, Tally
from foundray.data.prepare.reader import Reader, Row
from foundray.data.prepare.sources import BadRow
from foundray.data.stream.batch import packed
from foundray.errors import FoundrayError, InputError, RunFailed
from foundray.spec import SourceConfig
from foundray.storage import Store
from foundray.wording.words import plural

PART_BYTES, PART_FILES = 16 * 2**20, 4096
BLOCK_ROWS, BLOCK_VALUES = 512, 2**23
"""Most rows and values per block: large rows make smaller blocks."""
LISTS = "quarantine"
"""Folder, among the vectors, of lists of bad rows in parts that were not read to their end."""
SOURCE = "the source"
"""Name of the data in messages."""
BATCH_UNITS = {"cpu": 2**11, "cuda": 2**16}
"""Most units per batch, with padding, unless one row has more: a core's cache holds them, or they fill a GPU."""


@dataclass(frozen=True)
class Part:
    """Neighbouring files, read by one task."""

    name: str
    files: tuple[RawFile, ...]


def parts(files: Iterable[RawFile]) -> list[Part]:
    """Group files into parts, in order."""
    return [Part(f"{number:05d}", group) for number, group in enumerate(grouped(files, PART_BYTES, PART_FILES))]


def rows_per_block(reader: Reader) -> int:
    """Number of the reader's longest rows that fit in a block."""
    return max(1, min(BLOCK_ROWS, BLOCK_VALUES // (reader.length * max(1, reader.shape.width))))


def read_blocks(
    part: Part, reader: Reader, source: SourceConfig, done: Collection[str], limits: Limits, folder: str, device: str
) -> Iterator[dict[str, Any]]:
    """Yield the part's blocks that are not done, as rows for Ray Data; then write the part's record.

    Raises InputError for a file that cannot be read, or if more rows are bad than `limits` allow, after listing them in the
    folder; RunFailed, with file and row, for any other error.
    """
    record, store = Record(blocks=0, rows=0, bad=[]), Store.at(folder)
    try:
        for rows in _blocks(part, reader, source, limits, record, store.url):
            name = block_name(part, record.blocks)
            if name not in done:
                yield {"block": name, **_packed(rows, reader, BATCH_UNITS[device])}
            record.blocks += 1
            record.rows += len(rows)
    except FoundrayError:
        (store / f"{LISTS}/{part.name}.jsonl").write_text(record.listed())
        raise
    record.write(store, part)


class Record(BaseModel):
    """Contents of a part that was read to its end."""

    blocks: int
    rows: int
    bad: list[Line]
    """Unusable rows: source, position, reason, and number of rows lost."""
    empty: int = 0
    """Rows without content."""

    @property
    def lost(self) -> int:
        return sum(line.lost for line in self.bad)

    def listed(self) -> str:
        """The bad rows as JSON Lines."""
        return "".join(line.to_json() for line in self.bad)

    @staticmethod
    def read(folder: Store, part: Part) -> Record | None:
        """Read a part's record, or None if there is none. Raises InputError if it is damaged."""
        file = folder / f"parts/{part.name}.json"
        if not file.exists():
            return None
        try:
            return Record.model_validate_json(file.read_bytes())
        except ValidationError:
            raise InputError(f"{file} is damaged; delete it, and the same `foundray embed` makes it again") from None

    def write(self, folder: Store, part: Part) -> None:
        (folder / f"parts/{part.name}.json").write_text(self.model_dump_json())

    def names(self, part: Part) -> list[str]:
        return [block_name(part, number) for number in range(self.blocks)]


def block_name(part: Part, number: int) -> str:
    return f"{part.name}-{number:06d}"


def tally_of(records: Iterable[Record]) -> Tally:
    """Sum the contents of parts, with reasons of bad rows."""
    tally = Tally()
    for record in records:
        tally.balance.documents += record.rows
        tally.balance.empty += record.empty
        for line in record.bad:
            tally.add_line(line)
    return tally


def check_all(records: Sequence[Record], all_read: bool, limits: Limits, source: SourceConfig, folder: Store) -> None:
    """Raise InputError if too many rows of the parts read so far are bad; check the share once all parts are read."""
    bad, rows = (sum(getattr(record, name) for record in records) for name in ("lost", "rows"))
    if limits.exceeded(Balance(documents=rows, lost={"row": bad})) or (all_read and not rows):
        tally = tally_of(records)
        limits.check_rows(bad, SOURCE, tally, source.path, folder.url)
        if all_read:
            limits.check_share(SOURCE, tally, source.path, folder.url)


def _blocks(
    part: Part, reader: Reader, source: SourceConfig, limits: Limits, record: Record, folder: str
) -> Iterator[list[Row]]:
    size, block, tally = rows_per_block(reader), list[Row](), Tally()
    for url, row in _rows(part, reader, source):
        if not isinstance(row, BadRow):
            tally.balance.documents += 1
            block.append(row)
        elif line := tally.add(url, row):
            record.bad.append(line)
            limits.check_rows(tally.balance.bad, SOURCE, tally, source.path, folder)
        else:
            record.empty += 1
        if len(block) == size:
            yield block
            block = []
    if block:
        yield block


def _rows(part: Part, reader: Reader, source: SourceConfig) -> Iterator[tuple[str, Row | BadRow]]:
    """Yield (URL, row). Turn unexpected errors into RunFailed, with the file and the number of rows read."""
    for file in part.files:
        count = 0
        try:
            for row in reader.rows(file, source):
                yield file.url, row
                count += 1
        except FoundrayError:
            raise
        except Exception as error:
            raise RunFailed(f"{file.url}, after {plural(count, 'row')}: {described(error)}") from error


def _packed(rows: list[Row], reader: Reader, batch_units: int) -> dict[str, Any]:
    """Pack a block: `batches` as bytes; `order`, the row of each sample in them; and `table`, the rows' metadata."""
    # Sort by length, the longest first, to save padding.
    units = [_units(row, reader) for row in rows]
    order = np.argsort([-len(one) for one in units], kind="stable")
    columns = {"id": [row.id for row in rows], "source": [row.file for row in rows], "position": [row.place for row in rows]}
    if rows[0].text is not None:
        columns["text"] = [row.text or "" for row in rows]
    table = pa.table(columns)
    with (sink := pa.BufferOutputStream()), pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    batches = [packed([Plan(one, ()) for one in batch]) for batch in cut([units[index] for index in order], batch_units)]
    return {"batches": batches, "order": order.tolist(), "table": sink.getvalue().to_pybytes()}


def _units(row: Row, reader: Reader) -> Units:
    """Decode a row. Raises InputError if it is unreadable, RunFailed for any other error."""
    try:
        return reader.units(row)
    except Unreadable as error:
        raise InputError(f"{row.file}, {row.place}: {error}") from None
    except Exception as error:
        raise RunFailed(f"{row.file}, {row.place}: {described(error)}") from error


def cut(units: list[Units], batch_units: int) -> Iterator[list[Units]]:
    """Yield batches of samples that are sorted, the longest first."""
    rest = iter(units)
    while first := next(rest, None):
        yield [first, *islice(rest, max(1, batch_units // len(first)) - 1)]
