"""Multivariate series from CSV, Parquet or .ts files: independent channels, in patches of time (Nie et al. 2023)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, ClassVar

import numpy as np
from pydantic import Field, PositiveInt

from foundray.contract import Units, UnitShape, Unreadable, Values
from foundray_modalities.series_files import Channels, series_of

NOISE = 1e-12
"""Deviations below this fraction of a window's largest magnitude count as zero: sums and differences in float64 leave errors of
up to about 1e-13, and real signals lie far above, such as 2.5e-9 for a meter at 4e9 that grows by tens. It is relative, so that
a signal looks the same in volts and in microvolts."""
EXACT = 2.0**53
"""Integers below this are exact in float64, so their differences are never rounding errors."""
TOO_LARGE = float(np.finfo(np.float32).max)
"""Magnitude above which a value cannot be a measurement."""
VANISHING = 2.0**-24
"""Fraction of the largest deviation below which other deviations vanish in float32, the type of units."""


class Series(Values):
    arithmetic: ClassVar[int] = 2
    arithmetic_history: ClassVar[Mapping[int, str]] = {
        2: "a window is standardised in float64, with a relative epsilon instead of 1e-5"
    }
    gives: ClassVar[str] = "series"
    public: ClassVar[tuple[str, ...]] = ("Chronos", "TimesFM", "Moirai")
    endings: ClassVar[tuple[str, ...]] = (".csv", ".parquet", ".ts")

    patch: PositiveInt
    """Time steps per patch."""
    columns: list[str] = Field(default=[])
    """Names of the channels (default: all numeric columns)."""

    @property
    def shape(self) -> UnitShape:
        return UnitShape(width=self.patch)

    def rows(self, name: str, content: bytes, length: int) -> Iterator[tuple[str, dict[str, Any] | Unreadable]]:
        """Yield stretches of twice the length, one channel each, earlier ones first. Training cuts a random sample out of each.

        A row has `values` [up to 2 * length * patch] float64. Notes on what was left out come last.
        """
        window = length * self.patch
        tails = []
        for position, series in series_of(name, content, self.columns):
            if isinstance(series, Unreadable):
                yield position, series
                continue
            steps = series.values.shape[1]
            if steps < window:
                short = f"a series of {steps} steps is shorter than a sample of {window}"
                yield position or "step 0", Unreadable(short, unit=series.unit)
                continue
            for start in range(0, steps - window + 1, 2 * window):
                for channel, values in enumerate(series.values[:, start : start + 2 * window]):
                    where = ", ".join(filter(None, [position, f"step {start}", f"channel {channel}"]))
                    yield where, _fault(values, start, series) or {"values": values}
            if (tail := steps % (2 * window)) and tail < window:
                tails.append(tail)
        if tails:
            of = "" if len(tails) == 1 else f" of each of {len(tails)} series"
            amount = f"{min(tails)} to {max(tails)}" if len(set(tails)) > 1 else f"{tails[0]}"
            yield (
                "end",
                Unreadable(f"the last {amount} steps{of} are left out: they are fewer than a sample of {window}", 0, "step"),
            )

    def units(self, row: dict[str, Any], length: int, rng: np.random.Generator | None) -> Units:
        values, window = np.asarray(row["values"], np.float64), length * self.patch
        start = 0 if rng is None else int(rng.integers(0, len(values) - window + 1))
        return Units(standardised(values[start : start + window]).astype(np.float32).reshape(length, self.patch))

    def picture(self, x: np.ndarray) -> np.ndarray:
        return x.reshape(-1)


def standardised(window: np.ndarray) -> np.ndarray:
    """Standardise a window [T] to float64 of mean 0 and variance 1; zeros if all values are equal."""
    # Subtract the first value before the mean: numbers are then small, and equal values give exactly zero.
    centred = window - window[0]
    centred -= centred.mean()
    if (largest := np.abs(centred).max()) == 0:
        return centred
    # Divide by the largest deviation first, so that squares neither overflow nor vanish.
    centred /= largest
    with np.errstate(over="ignore"):
        noise = 0.0 if _exact(window) else NOISE * (np.abs(window).max() / largest)
        return np.asarray(centred / np.sqrt(np.mean(centred**2) + noise**2))


def _exact(values: np.ndarray) -> bool:
    """Whether these numbers are exact in float64: whole and not too large."""
    return bool(np.abs(values).max() < EXACT and (values == np.rint(values)).all())


def _fault(values: np.ndarray, start: int, series: Channels) -> Unreadable | None:
    """Why the values of a stretch, which begins at step `start`, cannot be used; None if they can."""
    if (gaps := np.flatnonzero(np.isnan(values))).size:
        step = start + int(gaps[0])
        return Unreadable(f"a gap at step {step}{series.cause(step)}")
    if (large := np.flatnonzero(np.abs(values) > TOO_LARGE)).size:
        return Unreadable(
            f"{values[large[0]]:g} at step {start + int(large[0])} is too large for float32, so it cannot be a measurement"
        )
    # One outlier may be so large that all other values become equal.
    away = np.abs(values - np.median(values))
    others = away[away > NOISE * np.abs(np.median(values))]
    if others.size and np.median(others) < VANISHING * away.max():
        step = int(away.argmax())
        return Unreadable(f"{values[step]:g} at step {start + step} is so large that the other values vanish beside it")
    if (size := np.abs(values).max()) >= EXACT and away.max() < 100 * NOISE * size:
        return Unreadable(f"values of about {size:.3g} change by less than float64 can resolve; subtract their common offset")
    return None
