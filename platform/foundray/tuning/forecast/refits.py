"""Many fits of the scaling law at once, from nearby starts: the result of `scaling_law.fit` for many sets of losses or weights.

Each row is minimised by iteratively reweighted least squares with Levenberg's damping (Holland and Welsch 1977): every accepted
step lowers the row's sum of Huber losses, and constants stay inside the bounds of the fit.
"""

from __future__ import annotations

import numpy as np

from foundray.tuning.forecast.scaling_law import DELTA, Centred

ITERATIONS = 200
SETTLED = 1e-9
"""A row is done when a step lowers its sum by less than this fraction."""
DAMPING = 1e-3, 1e-12, 1e12
"""Initial, least and greatest damping; a row at the greatest is done, since no step lowers it."""


def refit(starts: np.ndarray, ladder: Centred, log_losses: np.ndarray, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Fit K laws to P runs: constants [K, 5] (alpha, beta, a, b, e) and sums [K] of their weighted Huber losses.

    `starts` is [K, 5]; `log_losses` and `weights` are [K, P], in place of the ladder's own.
    """
    constants = np.clip(starts, *ladder.bounds)
    lowest = sums(constants, ladder, log_losses, weights)
    damping = np.full(len(constants), DAMPING[0])
    active = np.arange(len(constants))
    for _ in range(ITERATIONS):
        tried = _step(constants[active], ladder, log_losses[active], weights[active], damping[active])
        found = sums(tried, ladder, log_losses[active], weights[active])
        lower = found < lowest[active]
        gained = lowest[active] - found
        better = active[lower]
        settled = lower & (gained <= SETTLED * lowest[active])
        constants[better], lowest[better] = tried[lower], found[lower]
        damping[active] = np.clip(damping[active] * np.where(lower, 0.2, 8.0), *DAMPING[1:])
        active = active[~settled & (damping[active] < DAMPING[2])]
        if not len(active):
            break
    return constants, lowest


def predicted(constants: np.ndarray, ladder: Centred) -> np.ndarray:
    """Predicted log losses [K, P] of the ladder's runs, by constants [K, 5]."""
    return _terms(constants, ladder)[1]


def _terms(constants: np.ndarray, ladder: Centred) -> tuple[np.ndarray, np.ndarray]:
    """The law's terms as shares of the loss [K, 3, P], and the logarithm of the loss [K, P]."""
    alpha, beta, a, b, e = constants.T[:, :, None]
    terms = np.stack([a - alpha * ladder.n, b - beta * ladder.d, np.broadcast_to(e, (len(constants), len(ladder.n)))], 1)
    most = terms.max(1, keepdims=True)
    shares = np.exp(terms - most)
    whole = shares.sum(1, keepdims=True)
    return shares / whole, (np.log(whole) + most)[:, 0]


def sums(constants: np.ndarray, ladder: Centred, log_losses: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Weighted sums of Huber losses [K], in units of DELTA squared."""
    residual = np.abs(log_losses - predicted(constants, ladder)) / DELTA
    slope = np.minimum(residual, 1)
    found: np.ndarray = (weights * slope * (residual - slope / 2)).sum(1)
    return found


def _step(
    constants: np.ndarray, ladder: Centred, log_losses: np.ndarray, weights: np.ndarray, damping: np.ndarray,
) -> np.ndarray:  # fmt: skip
    """The next constants [K, 5] of each row: a damped Gauss-Newton step."""
    # Weighted gradient and curvature, with damping on the diagonal.
    shares, predicted = _terms(constants, ladder)
    residual = (log_losses - predicted) / DELTA
    pull = weights / np.maximum(np.abs(residual), 1)
    slopes = np.stack([-shares[:, 0] * ladder.n, -shares[:, 1] * ladder.d, *shares.transpose(1, 0, 2)], 1) / DELTA  # [K, 5, P]
    weighted = slopes * pull[:, None]
    gradient = (weighted @ residual[:, :, None])[:, :, 0]
    curvature = weighted @ slopes.transpose(0, 2, 1)
    diagonal = np.einsum("kii->ki", curvature)
    diagonal += damping[:, None] * (diagonal + 1e-9 * diagonal.max(1, keepdims=True) + 1e-300)
    bounds = ladder.bounds
    # A constant at its bound whose step would cross it stays there.
    stuck = ((constants <= bounds[0]) & (gradient < 0)) | ((constants >= bounds[1]) & (gradient > 0))
    curvature = np.where(stuck[:, :, None] | stuck[:, None], 0.0, curvature) + np.einsum("ki,ij->kij", stuck, np.eye(5))
    move = np.linalg.solve(curvature, np.where(stuck, 0.0, gradient)[:, :, None])[:, :, 0]
    return np.clip(constants + move, *bounds)
