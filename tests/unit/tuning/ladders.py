"""Ladders of runs whose losses follow a scaling law."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from foundray.tuning.forecast.forecast import Point
from foundray.tuning.forecast.scaling_law import Law

HOFFMANN = Law(E=1.69, A=406.4, B=410.7, alpha=0.34, beta=0.28)


def ladder(
    law: Law, noise: float = 0, seed: int = 0, sizes: Sequence[float] = (1e6, 3e6, 1e7), ratios: Sequence[float] = (8, 60)
) -> list[Point]:
    """Points for every size with every number of tokens per parameter."""
    rng = np.random.default_rng(seed)
    return [
        Point(size, size * ratio, law.loss(size, size * ratio) * np.exp(noise * rng.standard_normal()), f"{size:.0e}x{ratio}")
        for size in sizes
        for ratio in ratios
    ]
