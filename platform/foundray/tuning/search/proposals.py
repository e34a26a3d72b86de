"""The values of a search's trials: the k-th trial's follow from the seed, k, and the results until then."""

from __future__ import annotations

import itertools
import math
import warnings
from typing import Any

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution

from foundray.data.stream.order import mix
from foundray.errors import InputError
from foundray.spec import RangeConfig, Spec, flatten

Values = dict[str, Any]

optuna.logging.set_verbosity(optuna.logging.WARNING)


class Proposals:
    """The sampler of a search. Raises InputError for a grid with more combinations than trials."""

    def __init__(self, spec: Spec, space: dict[str, RangeConfig]):
        self.seed, self.kind, self.trials = spec.seed, spec.tune.sampler, spec.tune.trials
        own = flatten(spec.model_dump(mode="json"))
        self.own = {name: own.get(name) for name in space}
        self.space = {name: _distribution(values, self.own[name]) for name, values in space.items()}
        self.grid: list[Values] = []
        if self.kind == "grid":
            choices = [[(name, value) for value in values.choice or ()] for name, values in space.items()]
            self.grid = [dict(combination) for combination in itertools.product(*choices)]
            if len(self.grid) > self.trials:
                raise InputError(
                    f"tune.trials: the grid has {len(self.grid)} combinations, but only {self.trials} trials are allowed; "
                    "raise tune.trials, or give fewer choices"
                )
            self.trials = len(self.grid)
        self.study = optuna.create_study()
        self.asked: dict[int, optuna.Trial] = {}

    def values(self, number: int, known: Values | None = None) -> Values:
        """Values of a trial, counted from 0: those of an earlier command if they are `known`."""
        # A grid is a list, and the first trial of the other samplers has the spec's own values.
        if known is None and self.grid:
            return self.grid[number]
        if known is None and number == 0 and all(_holds(self.space[name], value) for name, value in self.own.items()):
            known = self.own
        # Optuna draws for every trial, known or not, so that it can learn from its result.
        if known is not None:
            self.study.enqueue_trial(known, skip_if_exists=False)
        seed = mix(self.seed, number) % 2**32
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            tree = optuna.samplers.TPESampler(seed=seed, constant_liar=True)
        self.study.sampler = tree if self.kind == "optuna" else optuna.samplers.RandomSampler(seed)
        trial = self.asked[number] = self.study.ask(self.space)
        return known if known is not None else {name: trial.params[name] for name in self.space}

    def tell(self, number: int, score: float) -> None:
        """Report a trial's final score; not finite if it diverged."""
        if trial := self.asked.pop(number, None):
            self.study.tell(trial, score if math.isfinite(score) else math.inf)


def _distribution(values: RangeConfig, own: Any) -> BaseDistribution:
    if values.bounds is None:
        return CategoricalDistribution(values.choice or [])
    (low, high), log = values.bounds, values.log_uniform is not None
    if isinstance(own, int) and not isinstance(own, bool):
        return IntDistribution(math.ceil(low), math.floor(high), log=log)
    return FloatDistribution(low, high, log=log)


def _holds(distribution: BaseDistribution, value: Any) -> bool:
    if isinstance(distribution, CategoricalDistribution):
        return value in distribution.choices
    return isinstance(value, int | float) and distribution.low <= value <= distribution.high  # type: ignore[attr-defined]
