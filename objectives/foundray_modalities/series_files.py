"""Reads series from CSV, Parquet or .ts files. Channels are numeric columns; notes name the columns left out."""

from __future__ import annotations

import io
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa

from foundray.contract import Unreadable
from foundray.contract.columns import check, listed
from foundray.contract.csv_rows import CsvRows
from foundray.contract.parquet_rows import ParquetRows
from foundray.contract.ts_cases import cases
from foundray_modalities.written_numbers import PLAIN, Numbers, looks_numeric, read_columns

HEADER = "header"
"""Position of notes about a file's columns."""
NUMBERS = (pa.types.is_integer, pa.types.is_floating, pa.types.is_decimal, pa.types.is_boolean)
TEXTS = (pa.types.is_string, pa.types.is_large_string, pa.types.is_string_view)
"""Arrow's numeric types, and its text types, which may contain numbers."""
LONGEST_GAP = 2**21
"""Most steps filled in for damaged rows. Row groups have up to 2**20; a damaged footer may promise any number."""
_UNNAMED = re.compile(r"(Unnamed: [0-9.]+|__index_level_[0-9]+__|index)?")
"""Names that pandas gives to columns without one, and the empty name."""


@dataclass
class Channels:
    """A series."""

    values: np.ndarray
    """[channels, steps] float64; NaN for a gap."""
    unit: str = "series"
    """Noun for it in messages."""
    causes: list[tuple[int, int, str]] = field(default_factory=list)
    """(first step, end, why) of gaps whose reason is known."""

    def cause(self, step: int) -> str:
        """Why there is a gap, to end a sentence."""
        return next((f": {why}" for start, end, why in self.causes if start <= step < end), "")


@dataclass
class _Column:
    """A column of a table."""

    name: str
    numbers: Numbers
    kind: str = "not numbers"
    """Description of a column that is not numeric."""

    @property
    def left_out(self) -> str:
        """Why it is left out unless the spec names it; empty if it is not."""
        values = self.numbers.values
        if _UNNAMED.fullmatch(self.name) and len(values) > 1 and (np.diff(values) == 1).all():
            return "it only counts rows"  # pandas and R write such an index beside the data
        return "" if self.numbers.usable else self.numbers.refused or self.kind


def series_of(name: str, content: bytes, wanted: Sequence[str]) -> Iterator[tuple[str, Channels | Unreadable]]:
    """Yield (position, series or why it is lost), then notes on what was left out. Raises Unreadable for a file without any."""
    name = re.sub(r"\.(gz|zst|xz|bz2|lz4)$", "", name.lower())
    if name.endswith(".ts"):
        yield from _of_cases(content)
    elif name.endswith(".parquet"):
        columns, causes = _parquet(ParquetRows(content))
        yield from _of_table(columns, wanted, causes)
    else:
        yield from _of_csv(CsvRows(io.BytesIO(content), wanted), wanted)


def _of_table(
    columns: list[_Column], wanted: Sequence[str], causes: list[tuple[int, int, str]], remark: str = ""
) -> Iterator[tuple[str, Channels | Unreadable]]:
    taken = _select(columns, wanted)
    yield "", Channels(np.stack([column.numbers.values for column in taken]), causes=causes)
    if not wanted:
        for column in columns:
            if column.numbers.refused:
                yield HEADER, Unreadable(f"the column {column.name!r} is refused: {column.numbers.refused}", unit="column")
    if summary := _summary(columns, taken, bool(wanted), remark):
        yield HEADER, Unreadable(summary, 0, "column")


def _select(columns: list[_Column], wanted: Sequence[str]) -> list[_Column]:
    """Columns that are wanted, or all numeric ones. Raises Unreadable."""
    names = [column.name for column in columns]
    check(names, wanted)
    if wanted:
        taken = [columns[names.index(name)] for name in wanted]
        for column in taken:
            if why := column.numbers.refused or ("" if np.isfinite(column.numbers.values).any() else column.kind):
                raise Unreadable(f"the column {column.name!r} cannot be read as numbers: {why}", unit="file")
        return taken
    if taken := [column for column in columns if not column.left_out]:
        return taken
    kinds = listed([_label(columns, column, "refused" if column.numbers.refused else column.left_out) for column in columns])
    refused = [f"; {column.name!r} is refused: {column.numbers.refused}" for column in columns if column.numbers.refused]
    raise Unreadable(f"it has no numeric column; there are: {kinds}{''.join(refused[:1])}", unit="file")


def _summary(columns: list[_Column], taken: list[_Column], chosen: bool, remark: str) -> str:
    """Note on the columns taken and left out; empty if it would only repeat the names."""
    shown = [_label(columns, column, column.numbers.rule) for column in taken]
    left = (
        []
        if chosen
        else [
            _label(columns, column, "refused" if column.numbers.refused else column.left_out)
            for column in columns
            if column.left_out
        ]
    )
    if not left and not remark and shown == [column.name for column in taken]:
        return ""
    parts = [remark, f"taken: {listed(shown)}", f"left out: {listed(left)}" if left else ""]
    return "; ".join(filter(None, parts))


def _label(columns: list[_Column], column: _Column, why: str) -> str:
    """A column for a list: `x (column 3, decimal commas)`."""
    doubled = [other.name for other in columns].count(column.name) > 1
    position = f"column {[other is column for other in columns].index(True) + 1}" if doubled or not column.name else ""
    brackets = ", ".join(filter(None, [position, why]))
    return f"{column.name or 'without a name'} ({brackets})" if brackets else column.name


def _of_csv(table: CsvRows, wanted: Sequence[str]) -> Iterator[tuple[str, Channels | Unreadable]]:
    """Yield the series of a CSV file. A row with too few or too many fields is a gap in all columns."""
    names, rows, ragged = table.names, list[list[str]](), 0
    causes: list[tuple[int, int, str]] = []
    for _, row in table.records():
        if isinstance(row, Unreadable):
            causes.append((len(rows), len(rows) + 1, str(row)))
        elif len(row) != len(names):
            ragged += 1
        rows.append(row if isinstance(row, list) and len(row) == len(names) else [""] * len(names))
    if not rows:
        raise Unreadable("no rows under the header", unit="file")
    spaced = len(names[0].split())
    if len(names) == 1 and spaced > 1 and sum(len(row[0].split()) == spaced for row in rows) > len(rows) / 2:
        raise Unreadable("its fields are separated by spaces; use commas, semicolons, tabs or bars", unit="file")
    if ragged > len(rows) / 2:
        raise Unreadable(
            f"{ragged} of its {len(rows)} rows do not have as many fields as its header ({len(names)})", unit="file"
        )
    remark = ""
    if _is_data(names, rows) and not (wanted and set(wanted) <= set(names)):
        rows.insert(0, names)
        causes = [(start + 1, end + 1, why) for start, end, why in causes]
        names = [str(index) for index in range(len(names))]
        remark = "its first row has numbers, so it is data, and columns are named by their index"
    texts = [list(column) for column in zip(*rows, strict=True)]
    numbers = read_columns(texts, "," if table.delimiter == ";" else "")
    columns = [
        _Column(name, found, "not numbers" if any(column) else "empty")
        for name, found, column in zip(names, numbers, texts, strict=True)
    ]
    yield from _of_table(columns, wanted, causes, remark)


def _is_data(header: list[str], rows: list[list[str]]) -> bool:
    """Whether the header is a data row: it has numbers in all numeric columns, and they do not just count columns."""
    below = list(zip(*rows[:100], strict=True))
    numeric = [index for index, column in enumerate(below) if sum(map(looks_numeric, column)) > len(column) / 2]
    if not numeric or not all(looks_numeric(header[index]) for index in numeric):
        return False
    if not all(re.fullmatch("[0-9]{1,9}", header[index]) for index in numeric):
        return True
    # Names of sensors, years and pandas' default names count up. A single column 0 is pandas', unless its values are whole.
    steps = set(np.diff([int(header[index]) for index in numeric]).tolist())
    if len(numeric) == 1:
        return header[numeric[0]] != "0" or all(text.strip().lstrip("+-").isdigit() for text in below[numeric[0]])
    return len(steps) > 1 or steps == {0} or (len(numeric) == 2 and steps != {1})


def _parquet(table: ParquetRows) -> tuple[list[_Column], list[tuple[int, int, str]]]:
    """Read each column separately, so that damage to one does not affect others."""
    if not len(table):
        raise Unreadable("no rows under the header", unit="file")
    columns, texts = list[_Column](), dict[int, list[str]]()
    causes: list[tuple[int, int, str]] = []
    for name, arrow in zip(table.names, table.schema.types, strict=True):
        kind = arrow.value_type if pa.types.is_dictionary(arrow) else arrow
        numbers, damage = Numbers(np.empty(0)), list[tuple[int, int, str]]()
        if table.names.count(name) > 1:
            numbers = Numbers(np.empty(0), refused="several columns have this name")
        elif any(is_number(kind) for is_number in NUMBERS):
            numbers = Numbers(_floats(table, name, damage))
        elif any(is_text(kind) for is_text in TEXTS):
            texts[len(columns)], kind = _texts(table, name, damage), "not numbers"
        if 2 * sum(end - start for start, end, _ in damage if end - start > 1) > len(table):
            numbers = Numbers(np.empty(0), refused=damage[0][2])
            texts.pop(len(columns), None)
        columns.append(_Column(name, numbers, str(kind)))
        causes += damage
    for index, numbers in zip(texts, read_columns(list(texts.values())), strict=True):
        columns[index].numbers = numbers
    return columns, causes


def _floats(table: ParquetRows, name: str, damage: list[tuple[int, int, str]]) -> np.ndarray:
    """Numbers of a column [N]; damaged ones are NaN, and added to `damage`."""
    parts = []
    for row, batch in table.batches([name]):
        if isinstance(batch, Unreadable):
            parts.append(np.full(_gap(batch), np.nan))
            damage.append((row, row + batch.lost, str(batch)))
            continue
        column = batch.column(0)
        column = column.dictionary_decode() if pa.types.is_dictionary(column.type) else column
        parts.append(column.cast(pa.float64(), safe=False).to_numpy(zero_copy_only=False))
    return np.concatenate(parts or [np.empty(0)])


def _texts(table: ParquetRows, name: str, damage: list[tuple[int, int, str]]) -> list[str]:
    """Texts of a column; damaged and missing ones are empty, and damaged ones added to `damage`."""
    texts: list[str] = []
    for number, row in table.rows([name]):
        if isinstance(row, Unreadable):
            texts += [""] * _gap(row)
            damage.append((number, number + row.lost, str(row)))
        else:
            texts.append(row[name] or "")
    return texts


def _gap(lost: Unreadable) -> int:
    """Number of steps in a gap. Raises Unreadable for more than `LONGEST_GAP`."""
    if lost.lost > LONGEST_GAP:
        raise Unreadable(str(lost), lost.lost, lost.unit)
    return lost.lost


def _of_cases(content: bytes) -> Iterator[tuple[str, Channels | Unreadable]]:
    stamped = 0
    for line, _, case in cases(content):
        if isinstance(case, Unreadable):
            yield f"line {line}", case
        else:
            stamped += case.stamped
            yield f"line {line}", Channels(np.stack([PLAIN.reads(values) for values in case.dimensions]), "case")
    if stamped:
        yield HEADER, Unreadable("time stamps are ignored: steps are assumed to be evenly spaced", 0, "column")
