"""Multivariate series, from CSV, Parquet or .ts files: each channel on its own, in patches of time (Nie et al. 2023)."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import Field, PositiveInt

from foundray.contract import Units, UnitShape, Unreadable, Values


class Series(Values):
    gives: ClassVar[str] = "series"
    public: ClassVar[tuple[str, ...]] = ("Chronos", "TimesFM", "Moirai")
    endings: ClassVar[tuple[str, ...]] = (".csv", ".parquet", ".ts")

    patch: PositiveInt
    """Steps of time in a patch."""
    columns: list[str] = Field(default=[])
    """The channels, by name (default: all columns of numbers)."""

    @property
    def shape(self) -> UnitShape:
        return UnitShape(width=self.patch)

    def rows(self, name: str, content: bytes, length: int) -> Iterator[tuple[str, dict[str, Any] | Unreadable]]:
        """Stretches of twice the length, one channel each, earlier ones first: a sample is cut out of one at random."""
        window = length * self.patch
        for label, channels in self._tables(name.lower().removesuffix(".gz"), content):
            steps = channels.shape[1]
            if steps < window:
                raise Unreadable(f"{label}a series of {steps} steps is shorter than a sample of {window}")
            for start in range(0, steps - window + 1, 2 * window):
                stretch = channels[:, start : start + 2 * window]
                where = f"{label}step {start}"
                for channel, values in enumerate(stretch):
                    if np.isfinite(values).all():
                        yield f"{where}, channel {channel}", {"values": values.astype(np.float32)}
                    else:
                        gap = start + int(np.flatnonzero(~np.isfinite(values))[0])
                        yield f"{where}, channel {channel}", Unreadable(f"a gap at step {gap}")

    def units(self, row: dict[str, Any], length: int, chance: np.random.Generator | None) -> Units:
        values, window = np.asarray(row["values"], np.float32), length * self.patch
        start = 0 if chance is None else int(chance.integers(0, len(values) - window + 1))
        cut = values[start : start + window]
        cut = (cut - cut.mean()) / np.sqrt(cut.var() + 1e-5)
        return Units(cut.reshape(length, self.patch))

    def _tables(self, name: str, content: bytes) -> Iterator[tuple[str, np.ndarray]]:
        """(label, [channels, steps]) of each series in a file; what is not a number is NaN. Raises Unreadable."""
        if name.endswith(".ts"):
            yield from _ts_cases(content)
            return
        columns = _parquet(content) if name.endswith(".parquet") else _csv(content)
        numbers = {key: _numbers(values) for key, values in columns.items()}
        wanted = self.columns or [key for key, values in numbers.items() if np.isfinite(values).mean() > 0.5]
        if unknown := [key for key in wanted if key not in columns]:
            raise Unreadable(f"it has no column {unknown[0]!r}; there are: {', '.join(columns)}")
        if not wanted:
            raise Unreadable("it has no column of numbers")
        yield "", np.stack([numbers[key] for key in wanted])


def _csv(content: bytes) -> dict[str, list[Any]]:
    """Columns by name. A row with too few or too many fields is a gap in all of them. Raises Unreadable."""
    try:
        lines = list(csv.reader(io.StringIO(content.decode("utf-8"))))
    except (UnicodeDecodeError, csv.Error) as error:
        raise Unreadable(f"not CSV: {error}") from None
    if len(lines) < 2:
        raise Unreadable("no rows under the header")
    names = lines[0]
    rows = [line if len(line) == len(names) else [""] * len(names) for line in lines[1:] if line]
    return {name: [row[index] for row in rows] for index, name in enumerate(names)}


def _parquet(content: bytes) -> dict[str, list[Any]]:
    try:
        return pq.read_table(pa.BufferReader(content)).to_pydict()
    except (pa.ArrowException, OSError) as error:
        raise Unreadable(f"not readable as Parquet: {error}") from None


def _numbers(values: list[Any]) -> np.ndarray:
    def number(value: Any) -> float:
        try:
            return float(value)
        except (TypeError, ValueError):
            return float("nan")

    return np.array([number(value) for value in values])


def _ts_cases(content: bytes) -> Iterator[tuple[str, np.ndarray]]:
    """The cases of the UEA archive's format: dimensions between colons, a label last."""
    lines = content.decode("utf-8", errors="replace").splitlines()
    start = next((i for i, line in enumerate(lines) if line.strip().lower() == "@data"), None)
    if start is None:
        raise Unreadable("not a .ts file: it has no @data")
    labelled = any(line.lower().startswith("@classlabel true") for line in lines[:start])
    for number, line in enumerate(lines[start + 1 :], start + 2):
        if line.strip():
            dimensions = [_numbers(part.split(",")) for part in line.split(":")]
            dimensions = dimensions[:-1] if labelled else dimensions
            if len({len(values) for values in dimensions}) != 1:
                raise Unreadable(f"line {number}: its dimensions have different lengths")
            yield f"line {number}, ", np.stack(dimensions)
