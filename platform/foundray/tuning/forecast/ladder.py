"""The ladder of a forecast: small runs of several sizes and amounts of data, and checks that they suffice."""

from __future__ import annotations

import csv
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from foundray.errors import InputError
from foundray.storage import Store

RUNS = 6
"""Least number of runs for a forecast: the law has five constants."""
SPAN = 3
"""Least ratio of the largest to the smallest N and D, and least number of distinct values of each."""
CORRELATION = 0.97
"""Correlation of log N and log D from which the two terms of the law cannot be separated."""


@dataclass(frozen=True)
class Target:
    """The size of a run."""

    parameters: float
    """N."""
    tokens: float
    """D: training tokens."""

    @property
    def flops(self) -> float:
        """6 N D (Kaplan et al. 2020): forward and backward, without attention."""
        return 6 * self.parameters * self.tokens


@dataclass(frozen=True)
class Point(Target):
    """A measured run."""

    loss: float
    """Measured loss, in nats."""
    name: str
    """Name for people."""


def check(points: Sequence[Point]) -> None:
    """Raises InputError, with a remedy, for runs that no forecast can be made from."""
    for point in points:
        for field in ("parameters", "tokens", "loss"):
            check_positive(getattr(point, field), f"{point.name}: {field}")
    if len(points) < RUNS:
        raise InputError(
            f"a forecast takes at least {RUNS} runs, and there are {len(points)}: add some of other sizes and lengths"
        )
    # Both sizes must vary, and not together.
    logs = []
    for what, values in (
        ("parameters", [point.parameters for point in points]),
        ("tokens", [point.tokens for point in points]),
    ):
        least, most, different = min(values), max(values), len({round(math.log(value), 2) for value in values})
        if most < SPAN * least:
            raise InputError(
                f"the runs' {what} span a factor of {most / least:.2g} ({least:.3g} to {most:.3g}): a forecast needs runs "
                f"that span at least {SPAN}"
            )
        if different < SPAN:
            raise InputError(f"the runs have {different} different numbers of {what}: a forecast needs at least {SPAN}")
        logs.append(np.log(values))
    if (correlation := abs(np.corrcoef(logs)[0, 1])) >= CORRELATION:
        raise InputError(
            f"parameters and tokens of the runs change together (their logarithms correlate by {correlation:.3f}), so their "
            f"gains cannot be separated: add runs of the same size with other tokens until the correlation is below "
            f"{CORRELATION}"
        )


def check_positive(value: float, where: str) -> None:
    """Raises InputError unless the value is a finite number above zero."""
    if not (math.isfinite(value) and value > 0):
        raise InputError(f"{where} is {value}, and must be a finite number above zero")


def points_from_csv(path: str | Path) -> list[Point]:
    """Read runs from a CSV file with the columns N, D and loss (nats), and any others. Runs are named by their lines.

    Raises InputError, which names file, line and column.
    """
    try:
        text = Store.at(path).read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is not UTF-8 text (byte {error.start})") from None
    reader = csv.DictReader(text.splitlines())
    points, wrong = [], []
    try:
        for column in ("N", "D", "loss"):
            if column not in (reader.fieldnames or ()):
                there = ", ".join(reader.fieldnames or ()) or "nothing"
                raise InputError(
                    f"{path}: the first line must name the columns N, D and loss; {column} is missing from: {there}"
                )
        for row in reader:
            values = {column: _number(row[column]) for column in ("N", "D", "loss")}
            bad = [name for name, value in values.items() if not (math.isfinite(value) and value > 0)]
            wrong += [f"line {reader.line_num}: {name} is {row[name] or ''!r}" for name in bad]
            points.append(Point(values["N"], values["D"], values["loss"], f"line {reader.line_num}"))
    except csv.Error as error:
        raise InputError(f"{path}, line {reader.line_num} is not CSV: {error}") from None
    if wrong:
        more = f" ({len(wrong) - 3} more after these)" if len(wrong) > 3 else ""
        raise InputError(f"{path}: {'; '.join(wrong[:3])}{more}: each must be a finite number above zero")
    return points


def _number(cell: str | None) -> float:
    """Parse a cell; NaN if it is not a number."""
    try:
        return float(cell or "")
    except ValueError:
        return math.nan
