"""Laws that the runs of a ladder leave plausible, and with how much noise: draws from a Bayesian posterior.

With six runs and five constants, a bootstrap refits residuals that are overfitted already: in a trial its 90 % intervals held
31 of 40 losses. So what is known of other scaling laws counts beforehand: their exponents, and how noisy losses are. On 2,160
synthetic ladders of 6 to 12 runs, for 4 to 30 times the compute, intervals then held 99, 91 and 89 % of the losses where noise
was 0.3, 0.6 and 1 %. They know nothing of ways in which a large run may leave the law.

Given alpha and beta the law is linear in E, A and B, whose posterior under Gaussian noise relative to the loss has a closed
form (Gelman et al. 2013, Bayesian Data Analysis, section 14.2); alpha and beta lie on a grid, and E, A and B must be positive.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from foundray.errors import InputError
from foundray.tuning.scaling_law import Law, Measured, columns

EXPONENT, FACTOR = 0.35, 2.0
"""Alpha and beta beforehand: log-normal about this median, a standard deviation being a factor of two either way. Hoffmann
et al. 2022 find 0.34 and 0.28 for text."""
NOISE, WEIGHT = 0.006, 3
"""Noise beforehand, as a part of the loss, and the number of runs that this knowledge counts for. It is seeds, and also
learning rates that fit some sizes better than others."""
RANGE = 0.04, 2.5
"""Of alpha and beta."""
CELLS = 48
NEGLIGIBLE = 1e-6
"""Odds against the likeliest cell, below which exponents are not looked at closely."""
BATCHES = 100
"""Tries at positive constants, each of as many draws as are wanted."""


@dataclass(frozen=True)
class _Grid:
    """Pairs of exponents, and the posterior of the other constants given each."""

    exponents: np.ndarray
    """[cells, 2]: alpha, beta."""
    odds: np.ndarray
    """[cells]: of each, were constants of any sign allowed; they sum to one."""
    best: np.ndarray
    """[cells, 3]: E, and A and B at the ladder's middle, by least squares."""
    spread: np.ndarray
    """[cells, 3, 3]: a root of their covariance, for noise of one."""
    squares: np.ndarray
    """[cells]: sum of squared residuals, what is known beforehand included."""
    freedom: int
    """Degrees of freedom of the noise."""

    @staticmethod
    def over(alphas: np.ndarray, betas: np.ndarray, n: np.ndarray, d: np.ndarray, losses: np.ndarray) -> _Grid:
        exponents = np.stack(np.meshgrid(alphas, betas, indexing="ij"), -1).reshape(-1, 2)
        shape = len(exponents), len(losses)
        terms = np.stack([np.ones(shape), np.exp(-np.outer(exponents[:, 0], n)), np.exp(-np.outer(exponents[:, 1], d))], 2)
        # Relative to the losses, which become ones: terms [cells, runs, 3] = left diag(values) right.
        left, values, right = np.linalg.svd(terms / losses[:, None], full_matrices=False)
        spread = right.transpose(0, 2, 1) / values[:, None, :]
        explained = left.sum(1)
        squares = WEIGHT * NOISE**2 + np.maximum(len(losses) - (explained**2).sum(1), 0)
        freedom = WEIGHT + len(losses) - 3
        beforehand = (np.log(exponents / EXPONENT) ** 2).sum(1) / (2 * np.log(FACTOR) ** 2)
        log_odds = -np.log(values).sum(1) - freedom / 2 * np.log(squares) - beforehand
        odds = np.exp(log_odds - log_odds.max())
        return _Grid(exponents, odds / odds.sum(), np.einsum("cij,cj->ci", spread, explained), spread, squares, freedom)

    def narrowed(self) -> list[np.ndarray]:
        """Alphas and betas, closer together, over what is not negligible."""
        likely = self.exponents[self.odds > NEGLIGIBLE * self.odds.max()]
        step = (RANGE[1] / RANGE[0]) ** (1 / (CELLS - 1))
        return [np.geomspace(values.min() / step, values.max() * step, CELLS) for values in likely.T]

    def draw(self, chance: np.random.Generator, draws: int) -> np.ndarray:
        """[draws or fewer, 6]: E, A, B, alpha, beta and noise, of those draws whose constants are positive."""
        cell = chance.choice(len(self.odds), draws, p=self.odds)
        noise = np.sqrt(self.squares[cell] / chance.chisquare(self.freedom, draws))
        about = np.einsum("dij,dj->di", self.spread[cell], chance.standard_normal((draws, 3)))
        constants = self.best[cell] + noise[:, None] * about
        return np.column_stack([constants, self.exponents[cell], noise])[(constants > 0).all(1)]


def plausible_laws(points: Sequence[Measured], chance: np.random.Generator, draws: int) -> tuple[list[Law], np.ndarray]:
    """Laws, and [draws] the standard deviation of log L about each. Raises InputError where hardly any law fits."""
    parameters, tokens, losses = columns(points)
    middle = np.log(parameters).mean(), np.log(tokens).mean()
    ladder = np.log(parameters) - middle[0], np.log(tokens) - middle[1], losses
    whole = np.geomspace(*RANGE, CELLS)
    alphas, betas = _Grid.over(whole, whole, *ladder).narrowed()
    grid = _Grid.over(alphas, betas, *ladder)
    found = np.empty((0, 6))
    for _ in range(BATCHES):
        found = np.concatenate([found, grid.draw(chance, draws)])[:draws]
        if len(found) == draws:
            break
    else:
        raise InputError(
            f"the losses of the {len(points)} runs do not fall with parameters and tokens as a scaling law does: leave out "
            "runs that went wrong, or add some"
        )
    found[:, 1:3] *= np.exp(found[:, 3:5] * middle)
    return [Law(*map(float, row[:5])) for row in found], found[:, 5]
