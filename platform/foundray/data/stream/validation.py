"""The part of the validation split that an evaluation uses: all of it, or micro-batches spread evenly over it."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import accumulate

from foundray.data.stream.leases import validation_plan
from foundray.data.stream.plan import StreamPlan
from foundray.spec import Spec
from foundray.spec.evaluating import VALIDATION

SHARE = 100
"""With `samples: auto`, evaluations use at most 1 token per this many training tokens."""
FEWEST = 1024
"""Fewest samples per evaluation under that rule. Judgement: with a standard deviation of 0.5 nats per sample, that of the mean
is 0.016; evaluations of a run use the same samples, so they differ by less."""


@dataclass(frozen=True)
class Part:
    """The samples of one evaluation."""

    plan: StreamPlan
    micro_batches: int
    samples: int
    of_samples: int
    """Samples in the whole split."""
    ends: tuple[int, ...] = ()
    """End of each source's samples in the split, which holds source after source."""

    def sources(self, position: int) -> list[tuple[int, int]]:
        """(source, samples) of each source in the stream's micro-batch at `position`, in the order of the samples."""
        size = self.plan.micro_batch_size
        whole = self.of_samples // size
        index = position if self.plan.chosen is None else self.plan.chosen_index(position, whole)
        start, stop = index * size, min((index + 1) * size, self.of_samples)
        found = []
        while start < stop:
            source = bisect_right(self.ends, start)
            end = min(stop, self.ends[source])
            found.append((source, end - start))
            start = end
        return found


@dataclass(frozen=True)
class ValidationSet:
    """A further validation set of a run."""

    name: str
    plan: StreamPlan
    """Its micro-batches, all of which are for validation."""
    samples: int
    bytes_per_token: float


def part_of(training: StreamPlan, spec: Spec, sizes: Sequence[int], last: bool, name: str = VALIDATION) -> Part:
    """Choose the part from the spec and the size of the split, or of the set `name`, alone.

    `sizes`: samples of each source in it. `last`: the evaluation at the end of the run.
    """
    of_samples, ends = sum(sizes), tuple(accumulate(sizes))
    plan = validation_plan(training, spec.objective.build().couples)
    size = plan.micro_batch_size
    whole, chosen = -(-of_samples // size), -(-requested_samples(spec, of_samples, last, name) // size)
    if chosen >= whole:
        return Part(plan, whole, of_samples, of_samples, ends)
    return Part(replace(plan, chosen=chosen), chosen, chosen * size, of_samples, ends)


def requested_samples(spec: Spec, of_samples: int, last: bool, name: str = VALIDATION) -> int:
    """Samples that the spec asks for; a set of `of_samples` may have fewer."""
    requested = spec.evaluate.sets[name].samples
    if requested == "whole" or (last and spec.evaluate.at_end == "whole"):
        return of_samples
    if requested == "auto":
        evaluations = -(-spec.train.steps // spec.train.evaluate_every)
        return max(FEWEST, spec.train.steps * spec.samples_per_step // (SHARE * evaluations))
    return requested
