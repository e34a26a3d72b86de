"""Which part of the validation split an evaluation looks at: all of it, or micro-batches from all over it."""

from __future__ import annotations

from dataclasses import dataclass, replace

from foundray.data.stream.leases import validation_plan
from foundray.data.stream.plan import StreamPlan
from foundray.spec import Spec
from foundray.spec.evaluating import VALIDATION

SHARE = 100
"""One in so many of the tokens that a run trains on may be spent on evaluations, where the spec leaves it to us."""
FEWEST = 1024
"""Samples that an evaluation then looks at, at least. Judgement: with a deviation of 0.5 nats from sample to sample the
mean's is 0.016, and evaluations of a run, which look at the same ones, differ by less."""


@dataclass(frozen=True)
class Part:
    """What one evaluation looks at."""

    plan: StreamPlan
    micro_batches: int
    samples: int
    of_samples: int
    """In the whole split."""


def part_of(training: StreamPlan, spec: Spec, of_samples: int, last: bool) -> Part:
    """By a rule of the spec and the size of the split alone. `last` is the evaluation at the end of the run."""
    plan = validation_plan(training, spec.objective.build().couples)
    size = plan.micro_batch_size
    whole, some = -(-of_samples // size), -(-_wanted(spec, of_samples, last) // size)
    if some >= whole:
        return Part(plan, whole, of_samples, of_samples)
    return Part(replace(plan, chosen=some), some, some * size, of_samples)


def _wanted(spec: Spec, of_samples: int, last: bool) -> int:
    wanted = spec.evaluate.sets[VALIDATION].samples
    if wanted == "whole" or (last and spec.evaluate.at_end == "whole"):
        return of_samples
    if wanted == "auto":
        evaluations = -(-spec.train.steps // spec.train.evaluate_every)
        return max(FEWEST, spec.train.steps * spec.samples_per_step // (SHARE * evaluations))
    return wanted
