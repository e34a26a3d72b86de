"""Plots made of characters."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import fmean

BLOCKS = " ▁▂▃▄▅▆▇█"
ASCII = " .:|"
LABEL = 6
"""Width of the axis labels."""


def plot(values: Sequence[float], width: int, rows: int, ascii_only: bool = False) -> list[str]:
    """Plot values as lines of `width` characters, from left to right; the axis labels the highest and the lowest.

    A column is the mean of its finite values; a column without any is a gap.
    """
    ramp = ASCII if ascii_only else BLOCKS
    columns = _columns(values, width - LABEL - 1)
    known = [value for value in columns if value is not None]
    if not known:
        return [""] * rows
    low, high = min(known), max(known)
    top = rows * (len(ramp) - 1)
    # The lowest value still shows: it has a height of 1.
    heights = [0 if value is None else 1 + round((value - low) / ((high - low) or 1.0) * (top - 1)) for value in columns]
    lines = []
    for row in reversed(range(rows)):
        below = row * (len(ramp) - 1)
        label = f"{high:{LABEL}.4g}" if row == rows - 1 else f"{low:{LABEL}.4g}" if row == 0 else ""
        lines.append(f"{label:>{LABEL}} " + "".join(ramp[min(max(h - below, 0), len(ramp) - 1)] for h in heights))
    return lines


def _columns(values: Sequence[float], width: int) -> list[float | None]:
    """Means of `width` equal stretches of the values; one value fills several columns if there are fewer."""
    means: list[float | None] = []
    for column in range(width if values else 0):
        start = column * len(values) // width
        stretch = values[start : max(start + 1, (column + 1) * len(values) // width)]
        finite = [value for value in stretch if math.isfinite(value)]
        means.append(fmean(finite) if finite else None)
    return means
