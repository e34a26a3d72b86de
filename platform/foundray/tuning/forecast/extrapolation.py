"""How far a forecast reaches beyond its ladder, and doubts about the fitted law: both widen the interval."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from foundray.errors import InputError
from foundray.tuning.forecast.ladder import Target
from foundray.tuning.forecast.refits import sums
from foundray.tuning.forecast.scaling_law import EXPONENTS, Centred

DRIFT = 0.04
"""Standard deviation of a run's log L from its ladder's law, per factor of ten in FLOPs beyond the ladder.

From ladders of 9 to 30 of the smaller runs of published studies (Hoffmann et al. 2022; Li et al. 2025, arXiv:2502.18969; the
Marin project), 116 of their runs of 1.7 to 34 times the FLOPs were forecast: intervals without it held 57 % of the losses, with
it 90 %. Most losses came out below the law."""
WARY = 2.0
"""Factor on the drift if the forecast has a caution. Judgement."""
SAME = 1e-6
"""Constants this close to a bound count as at it."""
LEAST_FALL = 0.9
"""A law is rejected if it leaves more than this share of the deviations from a constant loss."""


def reach(target: Target, points: Sequence[Target]) -> float:
    """The target's FLOPs as a multiple of those of the largest run."""
    return target.flops / max(point.flops for point in points)


def span(points: Sequence[Target]) -> float:
    """FLOPs of the largest run as a multiple of those of the smallest."""
    return max(point.flops for point in points) / min(point.flops for point in points)


def drift(target: Target, points: Sequence[Target]) -> float:
    """Standard deviation of the target's log L from its ladder's law; 0 inside the ladder."""
    return DRIFT * max(0.0, math.log10(reach(target, points)))


def cautions(ladder: Centred, fitted: np.ndarray, target: Target, points: Sequence[Target]) -> tuple[str, ...]:
    """Warnings: an extrapolation that is too far, and constants [5] at the bounds of the fit."""
    found = []
    far, wide = reach(target, points), span(points)
    if far > wide:
        found.append(
            f"{far:.3g} times the FLOPs of the largest run is farther than the ladder is wide (a factor of {wide:.3g}): "
            "add larger runs"
        )
    low, high = (np.isclose(fitted, bound, rtol=0, atol=SAME) for bound in ladder.bounds)
    for name, least, most in zip(("alpha", "beta"), low, high, strict=False):
        if least or most:
            found.append(f"{name} is at the fit's {'lower' if least else 'upper'} bound, {EXPONENTS[int(most)]:g}")
    terms = ("the gain from more parameters", "the gain from more data", "the irreducible loss (E)")
    for term, at_bound in zip(terms, low[2:], strict=True):
        if at_bound:
            found.append(f"the runs do not determine {term}: that part of the loss is fitted as zero")
    return tuple(found)


def check_falls(ladder: Centred, fitted: np.ndarray) -> None:
    """Raises InputError if the fitted constants [5] predict the losses hardly better than one constant loss does."""
    ones = np.ones((1, len(ladder.n)))
    losses = ladder.log_loss[None]
    flat = np.array([[1.0, 1.0, *ladder.bounds[0, 2:4], np.median(ladder.log_loss)]])
    if sums(fitted[None], ladder, losses, ones)[0] > LEAST_FALL * sums(flat, ladder, losses, ones)[0]:
        raise InputError(
            f"the losses of the {len(ladder.n)} runs do not fall with parameters and tokens as a scaling law does: leave out "
            "failed runs, or add runs"
        )
