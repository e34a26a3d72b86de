"""How far a forecast reaches beyond its ladder, and what is doubtful about the law: both make the interval wider."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from foundray.errors import InputError
from foundray.tuning.forecast.ladder import Target
from foundray.tuning.forecast.refits import sums
from foundray.tuning.forecast.scaling_law import EXPONENTS, Centred

DRIFT = 0.04
"""Standard deviation of log L by which runs leave the law of a ladder, for each factor of ten in FLOPs beyond it.

From ladders of 9 to 30 of the smaller runs of published studies (Hoffmann et al. 2022; Li et al. 2025, arXiv:2502.18969; the
Marin project), 116 of their runs of 1.7 to 34 times the FLOPs were forecast: intervals without it held 57 % of the losses, with
it 90 %. Most losses came out below the law."""
WARY = 2.0
"""Times the drift if the forecast goes with a caution. Judgement."""
SAME = 1e-6
"""Constants this near to a bound are at it."""
LEAST_FALL = 0.9
"""A law that leaves this part of the deviations from a constant loss says nothing."""


def reach(target: Target, points: Sequence[Target]) -> float:
    """The target's FLOPs as a multiple of those of the largest run."""
    return target.flops / max(point.flops for point in points)


def span(points: Sequence[Target]) -> float:
    """FLOPs of the largest run as a multiple of those of the smallest."""
    return max(point.flops for point in points) / min(point.flops for point in points)


def drift(target: Target, points: Sequence[Target]) -> float:
    """Standard deviation of the target's log L from the law that its ladder follows; 0 inside the ladder."""
    return DRIFT * max(0.0, math.log10(reach(target, points)))


def cautions(ladder: Centred, fitted: np.ndarray, target: Target, points: Sequence[Target]) -> tuple[str, ...]:
    """Sentences about an extrapolation that is too far, and about constants [5] that are at bounds of the fit."""
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
            found.append(f"{name} is at the {'least' if least else 'most'} that a fit may have, {EXPONENTS[int(most)]:g}")
    gains = ("what more parameters gain", "what more data gain", "which loss remains in the end (E)")
    for gain, none in zip(gains, low[2:], strict=True):
        if none:
            found.append(f"the runs do not tell {gain}: that part of the loss is fitted as none")
    return tuple(found)


def check_falls(ladder: Centred, fitted: np.ndarray) -> None:
    """Raises InputError for runs whose losses the fitted constants [5] tell hardly better than one loss for all does."""
    ones = np.ones((1, len(ladder.n)))
    losses = ladder.log_loss[None]
    flat = np.array([[1.0, 1.0, *ladder.bounds[0, 2:4], np.median(ladder.log_loss)]])
    if sums(fitted[None], ladder, losses, ones)[0] > LEAST_FALL * sums(flat, ladder, losses, ones)[0]:
        raise InputError(
            f"the losses of the {len(ladder.n)} runs do not fall with parameters and tokens as a scaling law does: leave out "
            "runs that went wrong, or add some"
        )
