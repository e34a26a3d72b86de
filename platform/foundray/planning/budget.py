"""How much data there is for the model's size, and what repeating it is worth.

Epochs: a source's share of the budget (train.steps times tokens per step) divided by its tokens. Repeating (Muennighoff et al.
2023, arXiv:2305.16264, equation 5, constant from section 6): U unique tokens, seen 1 + R times, are worth

    D' = U + U R* (1 - exp(-R / R*)),    R* = 15.4

new ones: at 4 epochs nearly as much as new data, from about 16 on hardly anything more. Size (Hoffmann et al. 2022,
arXiv:2203.15556, table 3 and equation 4): 20 tokens per parameter, so N = D / 20 for the data, and with C = 6 N D,
N = sqrt(C / 120) for the compute. Both were fitted to text; for other data they are a rough guide.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

from foundray.model.flops import flops, parameters_of
from foundray.planning.survey import Survey
from foundray.runs.run import LAW, Run
from foundray.spec import Spec

REPEATING = 15.387756
"""R*: Muennighoff et al. 2023."""
FEW_EPOCHS, MANY_EPOCHS = 4.0, 16.0
"""Up to the first, repeated data is nearly as good as new; from the second on, worth almost nothing: the same paper."""
TOKENS_PER_PARAMETER = 20.0
"""Hoffmann et al. 2022, table 3, rounded."""


@dataclass(frozen=True)
class SourceBudget:
    path: str
    training: float
    """Tokens of the training split."""
    unique: float
    """Tokens outside copies of earlier documents."""
    seen: float
    """Tokens of the budget."""

    @property
    def epochs(self) -> float:
        return self.seen / max(1.0, self.training)

    @property
    def worth(self) -> float:
        """New tokens that the budget is worth."""
        return worth(self.unique, self.seen)


@dataclass(frozen=True)
class Budget:
    sources: tuple[SourceBudget, ...]
    parameters: int
    """N of the scaling laws: matrices, without the embedding table."""
    tokens: float
    """Tokens seen in the run."""
    flops: float
    law: str
    """Source of the optimum for the compute."""
    optimum: float
    """Best number of parameters for the compute, given unlimited new data."""

    @property
    def unique(self) -> float:
        return sum(source.unique for source in self.sources)

    @property
    def epochs(self) -> float:
        """Epochs of the source that is repeated most."""
        return max(source.epochs for source in self.sources)

    @property
    def worth(self) -> float:
        return sum(source.worth for source in self.sources)

    @property
    def tokens_per_parameter(self) -> float:
        """New tokens that the run is worth, per parameter."""
        return self.worth / self.parameters

    def size_for_data(self, epochs: float) -> float:
        """Number of parameters that the data, read for `epochs`, is enough for."""
        return worth(self.unique, self.unique * epochs) / TOKENS_PER_PARAMETER

    def to_dict(self) -> dict[str, Any]:
        of_sources = [{**asdict(source), "epochs": source.epochs, "worth": source.worth} for source in self.sources]
        return {
            **asdict(self),
            "sources": of_sources,
            "unique": self.unique,
            "epochs": self.epochs,
            "worth": self.worth,
            "tokens_a_parameter": self.tokens_per_parameter,
            "tokens_a_parameter_wanted": TOKENS_PER_PARAMETER,
            "repeating": REPEATING,
            "size_for_data_one_epoch": self.size_for_data(1),
            "size_for_data_four_epochs": self.size_for_data(FEW_EPOCHS),
        }


def worth(unique: float, seen: float) -> float:
    """New tokens that `seen` tokens, `unique` of them distinct, are worth."""
    if seen <= unique or not unique:
        return min(seen, unique)
    repeated = seen / unique - 1
    return unique + unique * REPEATING * (1 - math.exp(-repeated / REPEATING))


def best_size(compute: float) -> float:
    """Best number of parameters for `compute` FLOPs."""
    return math.sqrt(compute / 6 / TOKENS_PER_PARAMETER)


def budget(spec: Spec, survey: Survey, report: Callable[[str], None] = lambda line: None) -> Budget:
    """The budget of the spec, given the survey of its data. Report a damaged forecast."""
    total = spec.train.steps * spec.tokens_per_step
    weights = sum(source.weight for source in survey.sources)
    sources = []
    for source in survey.sources:
        training = source.counts.tokens * (1 - spec.data.holdout)
        unique = training * (1 - source.documents.bytes)
        sources.append(SourceBudget(source.path, training, unique, total * source.weight / weights))
    compute = flops(spec, survey.vocabulary, spec.train.steps)
    law, optimum = _optimum(spec, compute, report)
    return Budget(tuple(sources), parameters_of(spec, survey.vocabulary), total, compute, law, optimum)


def _optimum(spec: Spec, compute: float, report: Callable[[str], None]) -> tuple[str, float]:
    """The optimum and its source: the law fitted for this run, if there is one; otherwise Hoffmann's."""
    from foundray.tuning.forecast.scaling_law import Law

    run = Run.named(spec)
    stated = run.forecast(spec)
    for line in run.damage():
        report(line)
    if stated:
        return "this run's forecast", Law(**{name: stated["law"][name] for name in LAW}).optimum(compute)[0]
    return "Hoffmann et al. 2022", best_size(compute)
