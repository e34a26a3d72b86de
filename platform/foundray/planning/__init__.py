"""`foundray plan`: whether to pre-train, and what it takes, answered from data and spec before anything runs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from foundray.errors import InputError
from foundray.planning.advice import BECAUSE, Advice, advice
from foundray.planning.budget import Budget, budget
from foundray.planning.cost import Assumptions, Estimate, Measured, estimates, measured
from foundray.planning.coverage import Coverage, coverage, load_named
from foundray.planning.gpus import fleets
from foundray.planning.survey import Survey, survey
from foundray.spec import Spec, nearest
from foundray.spec.length import with_epochs
from foundray.wording.shown import Shown

__all__ = ["BECAUSE", "Assumptions", "Plan", "plan"]


@dataclass(frozen=True)
class Plan(Shown):
    """What is known before a run."""

    spec: Spec
    survey: Survey
    budget: Budget
    estimates: tuple[Estimate, ...]
    measured: Measured | None
    """By the run's own speed, if it has begun."""
    assumptions: Assumptions
    coverage: Coverage | None
    """None for data that no tokenizer cuts."""
    advice: Advice

    def table(self) -> str:
        """The plan as a page of text."""
        from foundray.planning.page import page

        return page(self)

    def to_dict(self) -> dict[str, Any]:
        """Every number, and the inputs of the formulas, for JSON."""
        from foundray.planning.page import as_json

        return as_json(self)


def plan(
    spec: Spec,
    tokenizers: Sequence[str] = (),
    gpus: Sequence[str] = (),
    prices: Sequence[str] = (),
    because: Sequence[str] = (),
    peak_flops: float | None = None,
    sample_bytes: int | None = None,
    assumptions: Assumptions | None = None,
    report: Callable[[str], None] = lambda line: None,
) -> Plan:
    """Read the data and compute the rest. Start no run; write only the survey of the data, in `storage`.

    Raises InputError.
    """
    given = assumptions or Assumptions()
    # Check all flags first: reading the data may take long.
    for name in because:
        if name not in BECAUSE:
            raise InputError(
                f"--because {name}: no such reason{nearest(name, list(BECAUSE))}; the reasons are: {', '.join(BECAUSE)}"
            )
    if peak_flops is not None and not 0 < peak_flops < float("inf"):
        raise InputError(f"--peak-flops {peak_flops:g}: it must be a number above 0")
    named, machines = load_named(tokenizers), fleets(spec, gpus, prices, peak_flops)
    # The data, then what follows from it.
    found = survey(spec, sample_bytes, report)
    samples = found.counts.tokens * (1 - spec.data.holdout) / spec.model.context
    spec = with_epochs(spec, round(samples))
    covered = coverage(spec, found, named)
    amount = budget(spec, found, report)
    at = estimates(spec, found.vocabulary, amount.flops, machines, given)
    return Plan(spec, found, amount, tuple(at), measured(spec), given, covered, advice(spec, found, amount, covered, because))
