"""Format numbers, sizes and durations for people."""

from __future__ import annotations

import time
from pathlib import PurePosixPath


def duration(seconds: float) -> str:
    """`0.8 s`, `42 s`, `3 min 20 s`, `2 h 05 min`, `3 d 4 h`."""
    seconds = max(0.0, seconds)
    if seconds < 9.95:
        return f"{seconds:.2g} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    if whole < 86400:
        return f"{whole // 3600} h {whole % 3600 // 60:02d} min"
    return f"{whole // 86400} d {whole % 86400 // 3600} h"


def count(number: float) -> str:
    """`950`, `12.6k`, `1.86M`: three digits and a unit."""
    for unit, name in ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "k")):
        if number >= 0.9995 * unit:
            return f"{number / unit:.3g}{name}"
    return f"{number:.3g}"


def size(number: float) -> str:
    """Format bytes: `1.86 MB`."""
    for unit, name in ((1e12, "TB"), (1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        if number >= 0.9995 * unit:
            return f"{number / unit:.3g} {name}"
    return f"{number:.0f} B"


def loss(number: float | None) -> str:
    """Four decimals, or four significant digits of very small or large numbers."""
    if number is None:
        return "—"
    return f"{number:.4f}" if 0.01 <= abs(number) < 1000 else f"{number:.4g}"


def percent(share: float | None) -> str:
    return "—" if share is None else f"{share:.1%}".replace("%", " %")


def moment(seconds: float) -> str:
    """A time since the epoch, in UTC, because a page is read in other time zones than where it was made."""
    return time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(seconds))


def plural(number: int, one: str, several: str = "") -> str:
    return f"{number:,} {one if number == 1 else several or one + 's'}"


def span(fewest: int, most: int, one: str) -> str:
    """`1 worker`, `2 to 8 workers`."""
    return plural(most, one) if fewest == most else f"{fewest:,} to {plural(most, one)}"


def source_label(index: int, path: str) -> str:
    """Label a source by its number and file name: a URL's other parts may hold a key."""
    return f"{index} {PurePosixPath(path.partition('?')[0]).name}".strip()
