"""Plausible laws for the runs of a ladder: a bootstrap that refits resampled ladders with the same estimator (Efron 1979).

From 30 runs on, a draw resamples the runs, as Besiroglu et al. 2024 (arXiv:2404.10102) do. With fewer runs, five constants
leave residuals that say next to nothing. A draw then adds noise to the losses of the fitted law: residuals of the ladder,
scaled up for the fit's degrees of freedom, and noise as known from other ladders, which counts as three runs.

The exponents of other scaling laws weight the draws (Efron 2012, Bayesian inference and the parametric bootstrap). That
regularises laws of six runs, and changes nothing with hundreds.

On 180 synthetic ladders of 6 to 12 runs, for 4 to 30 times the compute, intervals from these draws held 100, 95 and 88 % of
the losses with noise of 0.3, 0.6 and 1 %. They do not cover the drift of large runs from the law: see `extrapolation`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import product

import numpy as np

from foundray.tuning.forecast.refits import predicted, refit, sums
from foundray.tuning.forecast.scaling_law import GRID, Centred, Law, Measured, fit

EXPONENT, FACTOR = 0.35, 2.0
"""Prior of alpha and beta: log-normal about this median; a standard deviation is a factor of two either way. Hoffmann et al.
2022 find 0.34 and 0.28 for text."""
NOISE, WEIGHT = 0.006, 3
"""Prior noise, relative to the loss, and the number of runs that the prior counts for. It comes from seeds, and from learning
rates that fit some sizes better than others."""
RESAMPLED = 30
"""Number of runs from which on draws resample the runs."""
CONSTANTS = 5


def plausible(ladder: Centred, fitted: np.ndarray, rng: np.random.Generator, draws: int) -> tuple[np.ndarray, np.ndarray]:
    """Draw plausible constants [draws, 5] about the fitted ones [5], and a run's deviation from its law in log L [draws]."""
    # Refit resampled runs, or the fitted law with noise.
    runs, expected = len(ladder.n), predicted(fitted[None], ladder)
    residuals = (ladder.log_loss - expected[0]) * np.sqrt(runs / max(runs - CONSTANTS, 1))
    starts = np.tile(fitted, (draws, 1))
    if runs >= RESAMPLED:
        weights = rng.multinomial(runs, np.full(runs, 1 / runs), draws).astype(np.float64)
        found, _ = refit(starts, ladder, np.broadcast_to(ladder.log_loss, weights.shape), weights)
    else:
        losses = expected + _noise(residuals, rng, (draws, runs))
        found = _best(refit(begun, ladder, losses, np.ones_like(losses)) for begun in (starts, _starts(ladder, losses)))
    # Weight the draws by the prior of the exponents.
    prior = np.exp(-(np.log(found[:, :2] / EXPONENT) ** 2).sum(1) / (2 * np.log(FACTOR) ** 2))
    kept = rng.choice(draws, draws, p=prior / prior.sum())
    return found[kept], _noise(residuals, rng, (draws, 1))[:, 0]


def without_each(points: Sequence[Measured], ladder: Centred, fitted: np.ndarray) -> list[Law]:
    """The laws fitted without the first run, without the second, ..."""
    runs = len(points)
    if runs < RESAMPLED:
        return [fit([point for other, point in enumerate(points) if other != out]) for out in range(runs)]
    losses = np.broadcast_to(ladder.log_loss, (runs, runs))
    found, _ = refit(np.tile(fitted, (runs, 1)), ladder, losses, 1 - np.eye(runs))
    return [ladder.law(constants) for constants in found]


def _noise(residuals: np.ndarray, rng: np.random.Generator, shape: tuple[int, int]) -> np.ndarray:
    """Draw noise: resampled residuals of the ladder mixed with prior noise; each row has its own plausible noise level."""
    freedom = max(len(residuals) - CONSTANTS, 1)
    from_prior = rng.random(shape) < WEIGHT / (WEIGHT + freedom)
    drawn = np.where(from_prior, NOISE * rng.standard_normal(shape), rng.choice(residuals, shape))
    level = np.sqrt((WEIGHT + freedom) / rng.chisquare(WEIGHT + freedom, (shape[0], 1)))
    return drawn * level


def _starts(ladder: Centred, log_losses: np.ndarray) -> np.ndarray:
    """Start constants [K, 5]: per row of losses, the best exponents of a grid, and the other constants by least squares."""
    losses = np.exp(log_losses)
    typical, least = np.exp(log_losses.mean(0)), np.exp(ladder.bounds[0, 4])
    cells = []
    for alpha, beta in product(GRID, repeat=2):
        terms = np.stack([np.exp(-alpha * ladder.n), np.exp(-beta * ladder.d), np.ones_like(typical)], 1) / typical[:, None]
        linear = np.log(np.maximum(losses / typical @ np.linalg.pinv(terms).T, least))
        exponents = np.broadcast_to((alpha, beta), (len(losses), 2))
        cells.append(np.concatenate([exponents, linear], 1))
    return _best((cell, sums(cell, ladder, log_losses, np.ones_like(losses))) for cell in cells)


def _best(found: Iterable[tuple[np.ndarray, np.ndarray]]) -> np.ndarray:
    """Constants [K, 5]: row by row those with the least sum, among several constants [K, 5] with their sums [K]."""
    constants, totals = zip(*found, strict=True)
    return np.stack(constants)[np.argmin(np.stack(totals), 0), np.arange(len(constants[0]))]
