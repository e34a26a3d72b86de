"""The scaling law L(N, D) = E + A N^-alpha + B D^-beta, fitted as in Hoffmann et al. 2022 (arXiv:2203.15556), approach 3.

N are parameters, D training tokens, L the loss in nats per token. Besiroglu et al. 2024 (arXiv:2404.10102) show what a fit
needs to reach its optimum: losses summed rather than averaged, and tolerances that fit their scale.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any, Protocol

import numpy as np
from scipy.optimize import minimize, nnls

DELTA = 1e-3
"""Where Huber's loss turns from square to linear, in log L: an outlier pulls no harder than a residual of 0.1 %."""
EXPONENTS = (0.02, 2.5)
"""Bounds of alpha and beta."""
LEAST_SHARE = 1e-6
"""No term of the law is a smaller part of the loss: logarithms are kept finite."""
STARTS = 4
"""The best of a grid; on ladders with noise of up to 1 % two found what twenty did."""


class Measured(Protocol):
    """A run: parameters N, training tokens D, loss in nats."""

    @property
    def parameters(self) -> float: ...
    @property
    def tokens(self) -> float: ...
    @property
    def loss(self) -> float: ...


@dataclass(frozen=True)
class Law:
    """Constants of the law. A and B are ill-determined (they trade against the exponents); E, alpha and beta say something."""

    E: float
    """Loss that neither size nor data removes, nats."""
    A: float
    B: float
    alpha: float
    beta: float

    def loss(self, parameters: Any, tokens: Any) -> Any:
        """Nats, for numbers or arrays of one shape."""
        return self.E + self.A * parameters**-self.alpha + self.B * tokens**-self.beta

    def optimum(self, flops: float) -> tuple[float, float]:
        """Parameters and tokens of the least loss where 6 N D = flops (Hoffmann et al. 2022, equation 4)."""
        both = self.alpha + self.beta
        ratio = (self.alpha * self.A / (self.beta * self.B)) ** (1 / both)
        parameters = ratio * (flops / 6) ** (self.beta / both)
        return parameters, flops / 6 / parameters


def columns(points: Sequence[Measured]) -> np.ndarray:
    """[3, n]: parameters, tokens, losses."""
    return np.array([(point.parameters, point.tokens, point.loss) for point in points], np.float64).T


def fit(points: Sequence[Measured]) -> Law:
    """The law that minimises the sum of Huber's losses of log L, the best of several starts. Values must be positive."""
    parameters, tokens, losses = columns(points)
    # About their middle, log N and log D hardly correlate with the constants, which are then terms of a typical loss.
    middle = np.log(parameters).mean(), np.log(tokens).mean()
    n, d, log_loss = np.log(parameters) - middle[0], np.log(tokens) - middle[1], np.log(losses)
    least, most = log_loss.min() + np.log(LEAST_SHARE), log_loss.max()
    bounds = [EXPONENTS, EXPONENTS, (least, most), (least, most), (least, log_loss.min())]

    def objective(constants: np.ndarray) -> tuple[float, np.ndarray]:
        return summed_huber(constants, n, d, log_loss)

    starts = sorted(_starts(n, d, losses, least), key=lambda start: objective(start)[0])[:STARTS]
    options = {"maxiter": 2000, "ftol": 1e-13, "gtol": 1e-8}
    found = [minimize(objective, start, jac=True, method="L-BFGS-B", bounds=bounds, options=options) for start in starts]
    alpha, beta, a, b, e = min(found, key=lambda result: result.fun).x
    scales = np.exp([e, a + alpha * middle[0], b + beta * middle[1]])
    return Law(*map(float, (*scales, alpha, beta)))


def summed_huber(constants: np.ndarray, n: np.ndarray, d: np.ndarray, log_loss: np.ndarray) -> tuple[float, np.ndarray]:
    """Sum over points [n] of Huber's loss of log L, and its gradient [5] by alpha, beta, a, b, e.

    In units of DELTA squared: L-BFGS takes changes below some 1e-9 for none, and Huber's losses of good fits are as small.
    """
    alpha, beta, a, b, e = constants
    terms = np.stack([a - alpha * n, b - beta * d, np.full_like(n, e)])
    predicted = np.logaddexp.reduce(terms, axis=0)
    share = np.exp(terms - predicted)
    residual = (log_loss - predicted) / DELTA
    slope = np.clip(residual, -1, 1)
    pull = -slope / DELTA * share
    gradient = np.array([-pull[0] @ n, -pull[1] @ d, *pull.sum(1)])
    return float(np.sum(slope * (residual - slope / 2))), gradient


def _starts(n: np.ndarray, d: np.ndarray, losses: np.ndarray, least: float) -> list[np.ndarray]:
    """Exponents on a grid; the other constants, in which the law is linear, by non-negative least squares."""
    found = []
    for alpha, beta in product(np.geomspace(0.05, 2.0, 8), repeat=2):
        terms = np.stack([np.exp(-alpha * n), np.exp(-beta * d), np.ones_like(n)], 1)
        constants, _ = nnls(terms / losses[:, None], np.ones_like(n))
        found.append(np.array([alpha, beta, *np.log(np.maximum(constants, np.exp(least)))]))
    return found
