"""Many fits of the scaling law at once, from starts nearby: what `scaling_law.fit` finds, for many sets of losses or weights.

Each row is minimised by iteratively reweighted least squares with Levenberg's damping (Holland and Welsch 1977): every accepted
step lowers the row's sum of Huber's losses, and constants stay inside the bounds of the fit.
"""

from __future__ import annotations

import numpy as np

from foundray.tuning.forecast.scaling_law import DELTA, Centred

ITERATIONS = 200
SETTLED = 1e-9
"""A row is done when a step lowers its sum by less than this part of it."""
DAMPING = 1e-3, 1e-12, 1e12
"""The first one, the least and the most; a row that no step lowers any more is done."""


def refit(starts: np.ndarray, ladder: Centred, log_losses: np.ndarray, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Constants [K, 5] (alpha, beta, a, b, e) and sums [K] of the weighted Huber's losses, of K fits to P runs.

    `starts` is [K, 5]; `log_losses` and `weights` are [K, P], in place of the ladder's own.
    """
    at = np.clip(starts, *ladder.bounds)
    lowest = sums(at, ladder, log_losses, weights)
    damping = np.full(len(at), DAMPING[0])
    active = np.arange(len(at))
    for _ in range(ITERATIONS):
        tried = _step(at[active], ladder, log_losses[active], weights[active], damping[active])
        found = sums(tried, ladder, log_losses[active], weights[active])
        lower = found < lowest[active]
        gained = lowest[active] - found
        better = active[lower]
        settled = lower & (gained <= SETTLED * lowest[active])
        at[better], lowest[better] = tried[lower], found[lower]
        damping[active] = np.clip(damping[active] * np.where(lower, 0.2, 8.0), *DAMPING[1:])
        active = active[~settled & (damping[active] < DAMPING[2])]
        if not len(active):
            break
    return at, lowest


def predicted(at: np.ndarray, ladder: Centred) -> np.ndarray:
    """Logarithms of the losses [K, P] of the ladder's runs, by constants [K, 5]."""
    return _terms(at, ladder)[1]


def _terms(at: np.ndarray, ladder: Centred) -> tuple[np.ndarray, np.ndarray]:
    """The law's terms as shares of the loss [K, 3, P], and the logarithm of the loss [K, P]."""
    alpha, beta, a, b, e = at.T[:, :, None]
    terms = np.stack([a - alpha * ladder.n, b - beta * ladder.d, np.broadcast_to(e, (len(at), len(ladder.n)))], 1)
    most = terms.max(1, keepdims=True)
    shares = np.exp(terms - most)
    whole = shares.sum(1, keepdims=True)
    return shares / whole, (np.log(whole) + most)[:, 0]


def sums(at: np.ndarray, ladder: Centred, log_losses: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """[K]: in units of DELTA squared."""
    residual = np.abs(log_losses - predicted(at, ladder)) / DELTA
    slope = np.minimum(residual, 1)
    found: np.ndarray = (weights * slope * (residual - slope / 2)).sum(1)
    return found


def _step(
    at: np.ndarray, ladder: Centred, log_losses: np.ndarray, weights: np.ndarray, damping: np.ndarray,
) -> np.ndarray:  # fmt: skip
    """[K, 5]: where each row goes next."""
    shares, predicted = _terms(at, ladder)
    residual = (log_losses - predicted) / DELTA
    pull = weights / np.maximum(np.abs(residual), 1)
    slopes = np.stack([-shares[:, 0] * ladder.n, -shares[:, 1] * ladder.d, *shares.transpose(1, 0, 2)], 1) / DELTA  # [K, 5, P]
    weighted = slopes * pull[:, None]
    gradient = (weighted @ residual[:, :, None])[:, :, 0]
    curvature = weighted @ slopes.transpose(0, 2, 1)
    diagonal = np.einsum("kii->ki", curvature)
    diagonal += damping[:, None] * (diagonal + 1e-9 * diagonal.max(1, keepdims=True) + 1e-300)
    bounds = ladder.bounds
    # A constant at its bound that would leave it stays there.
    stuck = ((at <= bounds[0]) & (gradient < 0)) | ((at >= bounds[1]) & (gradient > 0))
    curvature = np.where(stuck[:, :, None] | stuck[:, None], 0.0, curvature) + np.einsum("ki,ij->kij", stuck, np.eye(5))
    move = np.linalg.solve(curvature, np.where(stuck, 0.0, gradient)[:, :, None])[:, :, 0]
    return np.clip(at + move, *bounds)
