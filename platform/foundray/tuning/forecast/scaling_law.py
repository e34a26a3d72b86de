"""The scaling law L(N, D) = E + A N^-alpha + B D^-beta, fitted as in Hoffmann et al. 2022 (arXiv:2203.15556), approach 3.

N is parameters, D training tokens, L the loss in nats per token. Besiroglu et al. 2024 (arXiv:2404.10102) show what a fit
needs to reach its optimum: losses summed rather than averaged, and tolerances on their scale.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any, Protocol

import numpy as np
from scipy.optimize import minimize, nnls

DELTA = 1e-3
"""Where the Huber loss turns from square to linear, in log L: an outlier pulls no harder than a residual of 0.1 %."""
EXPONENTS = (0.02, 2.5)
"""Bounds of alpha and beta."""
LEAST_SHARE = 1e-6
"""Least share of the loss for a term of the law, which keeps logarithms finite."""
GRID = np.geomspace(0.05, 2.0, 8)
"""Exponents that fits start from."""
STARTS = 4
"""Starts of a fit, the best of a grid; on ladders with noise of up to 1 % two found what twenty did."""


class Measured(Protocol):
    """A measured run: parameters N, training tokens D, loss in nats."""

    @property
    def parameters(self) -> float: ...
    @property
    def tokens(self) -> float: ...
    @property
    def loss(self) -> float: ...


@dataclass(frozen=True)
class Law:
    """Constants of the law. A and B are ill-determined (they trade off against the exponents); E, alpha and beta are not."""

    E: float
    """Irreducible loss, nats."""
    A: float
    B: float
    alpha: float
    beta: float

    def loss(self, parameters: Any, tokens: Any) -> Any:
        """Loss in nats, for numbers or arrays of one shape."""
        return self.E + self.A * parameters**-self.alpha + self.B * tokens**-self.beta

    def optimum(self, flops: float) -> tuple[float, float]:
        """Parameters and tokens of the least loss for 6 N D = flops (Hoffmann et al. 2022, equation 4)."""
        both = self.alpha + self.beta
        ratio = (self.alpha * self.A / (self.beta * self.B)) ** (1 / both)
        parameters = ratio * (flops / 6) ** (self.beta / both)
        return parameters, flops / 6 / parameters


def columns(points: Sequence[Measured]) -> np.ndarray:
    """Parameters, tokens and losses as an array [3, n]."""
    return np.array([(point.parameters, point.tokens, point.loss) for point in points], np.float64).T


@dataclass(frozen=True)
class Centred:
    """Runs with log N and log D centred, which decorrelates the constants: they become the terms of a typical loss.

    Constants are alpha, beta, and the logarithms of the three terms at the middle: a, b, e.
    """

    n: np.ndarray
    d: np.ndarray
    """[P]: log N and log D, less their means."""
    log_loss: np.ndarray
    """[P]."""
    middle: tuple[float, float]
    """The means."""

    @staticmethod
    def of(points: Sequence[Measured]) -> Centred:
        """Centre runs, whose values must be positive."""
        parameters, tokens, log_loss = np.log(columns(points))
        n, d = float(parameters.mean()), float(tokens.mean())
        return Centred(parameters - n, tokens - d, log_loss, (n, d))

    @property
    def bounds(self) -> np.ndarray:
        """Lower and upper bounds of the constants [2, 5]."""
        least, most = self.log_loss.min() + np.log(LEAST_SHARE), self.log_loss.max()
        return np.array([EXPONENTS, EXPONENTS, (least, most), (least, most), (least, self.log_loss.min())]).T

    def law(self, constants: np.ndarray) -> Law:
        """The law with constants [5]."""
        alpha, beta, a, b, e = constants
        scales = np.exp([e, a + alpha * self.middle[0], b + beta * self.middle[1]])
        return Law(*map(float, (*scales, alpha, beta)))


def fit(points: Sequence[Measured]) -> Law:
    """Fit the law that minimises the summed Huber loss of log L, the best of several starts. Values must be positive."""
    ladder = Centred.of(points)
    return ladder.law(constants_of(ladder))


def constants_of(ladder: Centred) -> np.ndarray:
    """Constants [5] of the fit."""

    def objective(constants: np.ndarray) -> tuple[float, np.ndarray]:
        return summed_huber(constants, ladder.n, ladder.d, ladder.log_loss)

    bounds = ladder.bounds
    starts = sorted(starts_of(ladder), key=lambda start: objective(start)[0])[:STARTS]
    options = {"maxiter": 2000, "ftol": 1e-13, "gtol": 1e-8}
    found = [minimize(objective, start, jac=True, method="L-BFGS-B", bounds=bounds.T, options=options) for start in starts]
    best: np.ndarray = min(found, key=lambda result: result.fun).x
    return best


def summed_huber(constants: np.ndarray, n: np.ndarray, d: np.ndarray, log_loss: np.ndarray) -> tuple[float, np.ndarray]:
    """Sum over points [n] of the Huber loss of log L, and its gradient [5] by alpha, beta, a, b, e.

    In units of DELTA squared: L-BFGS ignores changes below about 1e-9, and the Huber losses of good fits are that small.
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


def starts_of(ladder: Centred) -> list[np.ndarray]:
    """Start constants: exponents on a grid; the others, in which the law is linear, by non-negative least squares."""
    losses, least, found = np.exp(ladder.log_loss), np.exp(ladder.bounds[0, 4]), []
    for alpha, beta in product(GRID, repeat=2):
        terms = np.stack([np.exp(-alpha * ladder.n), np.exp(-beta * ladder.d), np.ones_like(losses)], 1)
        constants, _ = nnls(terms / losses[:, None], np.ones_like(losses))
        found.append(np.array([alpha, beta, *np.log(np.maximum(constants, least))]))
    return found
