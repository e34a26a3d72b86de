"""Rows of Parquet files, read row group by row group. Damage costs only what it damages; reading continues after it.

Needs pyarrow, unlike the rest of the package. Page checksums are verified if a file has them. Everything is read in the
calling thread: a thread of Arrow's that still holds Python bytes at exit may crash the program.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from foundray.contract import Unreadable
from foundray.contract.columns import check

ROWS_AT_ONCE = 1024
BYTES_AT_ONCE = 2**25
"""Most rows decoded together, and about how many bytes (judgement: keeps a batch of long documents small)."""
READ_AGAIN = 50_000
"""Approximate number of batches in the second try at a damaged row group (judgement: a second of time)."""
SMALL = 2**26
"""Largest file, in bytes, whose columns are read whole, a row group at a time. Larger ones are read `BUFFER` bytes of a column
at a time; then a damaged page, which may claim any size, costs memory."""
BUFFER = 2**20


class ParquetRows:
    """Rows of one file, read lazily."""

    def __init__(self, file: Any):
        """Read the footer of `file`: a seekable Arrow file, or its bytes. Raises Unreadable if the footer is damaged."""
        source = pa.BufferReader(file) if isinstance(file, bytes | memoryview) else file
        try:
            buffer = BUFFER if source is file and source.size() > SMALL else 0
            self._file = pq.ParquetFile(source, pre_buffer=False, buffer_size=buffer, page_checksum_verification=True)
            self.schema: pa.Schema = self._file.schema_arrow
            """Column types, in order."""
            self.names: list[str] = list(self.schema.names)
            """Column names, in order; a name may appear twice."""
            groups = [self._file.metadata.row_group(group) for group in range(self._file.metadata.num_row_groups)]
            self._sizes = [(max(0, group.num_rows), max(1, group.total_byte_size)) for group in groups]
        except UnicodeDecodeError:
            raise Unreadable("not readable as Parquet: its schema holds text that is not UTF-8", unit="file") from None
        except Exception as error:  # Arrow raises errors of every kind
            raise Unreadable(f"not readable as Parquet: {_sentence(error)}", unit="file") from None

    def __len__(self) -> int:
        """Number of rows that the footer promises."""
        return sum(rows for rows, _ in self._sizes)

    def rows(self, columns: Sequence[str]) -> Iterator[tuple[int, dict[str, Any] | Unreadable]]:
        """Yield (number, values by column) for each row, or why the rows from there on are lost.

        Raises Unreadable for a column that is missing or appears twice.
        """
        for number, batch in self.batches(columns):
            if isinstance(batch, Unreadable):
                yield number, batch
                continue
            values = [_values(batch.column(index)) for index in range(len(columns))]
            for offset, row in enumerate(zip(*values, strict=True)):
                bad = next((value for value in zip(columns, row, strict=True) if isinstance(value[1], Unreadable)), None)
                if bad is None:
                    yield number + offset, dict(zip(columns, row, strict=True))
                else:
                    yield number + offset, Unreadable(f"{bad[0]!r} is {bad[1]}")

    def batches(self, columns: Sequence[str]) -> Iterator[tuple[int, pa.RecordBatch | Unreadable]]:
        """Yield (number of the first row, Arrow batch), or why the rows from there on are lost.

        A batch has exactly these columns, in this order. Raises Unreadable as `rows` does.
        """
        check(self.names, columns)
        start = 0
        for group, (rows, size) in enumerate(self._sizes):
            at_once = max(1, min(ROWS_AT_ONCE, BYTES_AT_ONCE * rows // size))
            read = 0
            try:
                for batch in self._group(group, columns, at_once):
                    yield start + read, batch
                    read += len(batch)
                reason = f"it holds {read} rows, and the footer promises {rows}"
            except Exception as error:
                reason = _sentence(error)
                # A batch is lost as a whole, so read the rows before the damage again in smaller ones.
                for batch in _up_to_damage(self._group(group, columns, max(1, read // READ_AGAIN)), read):
                    yield start + read, batch
                    read += len(batch)
            if read < rows:
                lost = f"row group {group} cannot be read from row {start + read} on ({rows - read} of {rows} rows): {reason}"
                yield start + read, Unreadable(lost, rows - read)
            start += max(rows, read)

    def _group(self, group: int, columns: Sequence[str], at_once: int) -> Iterator[pa.RecordBatch]:
        for batch in self._file.iter_batches(at_once, [group], list(columns), use_threads=False):
            # Arrow also takes a name with a dot for a path into a nested column, and may add others.
            yield batch if batch.schema.names == list(columns) else batch.select(list(columns))


def _up_to_damage(batches: Iterator[pa.RecordBatch], skipped: int) -> Iterator[pa.RecordBatch]:
    """Yield the rows after the first `skipped`, up to the batch that cannot be read."""
    at = 0
    try:
        for batch in batches:
            if at + len(batch) > skipped:
                yield batch.slice(max(0, skipped - at))
            at += len(batch)
    except Exception:
        return  # the caller knows the reason


def _values(column: pa.Array) -> list[Any]:
    """A column's values as Python objects, with an Unreadable for each that has no such form."""
    try:
        values: list[Any] = column.to_pylist()
        return values
    except Exception:
        return [_value(scalar) for scalar in column]


def _value(scalar: pa.Scalar) -> Any:
    try:
        return scalar.as_py()
    except UnicodeDecodeError as error:
        return Unreadable(f"not UTF-8 (byte 0x{error.object[error.start]:02x})")
    except Exception as error:
        return Unreadable(f"not a value that can be read: {_sentence(error)}")


def _sentence(error: BaseException) -> str:
    """First line of an error's text, cut to 300 characters."""
    return (str(error).strip() or type(error).__name__).splitlines()[0][:300]
