"""Batch sizes in a search: trials compare at equal tokens, so a trial's batch size determines its steps and its rungs."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping
from dataclasses import dataclass

from foundray.spec import RangeConfig, Spec

FIELDS = ("train.micro_batches", "train.micro_batch_size")
"""Their product is the batch size."""


@dataclass(frozen=True)
class Batches:
    """The batch sizes of a search space."""

    largest: float = 1.0
    """The largest batch size as a multiple of the spec's, at least 1."""
    common: int | None = 1
    """Steps of the spec after which every batch size has seen the same tokens; None if any size is possible."""

    def aligned(self, steps: int) -> int:
        """Round steps of the spec down so that every batch size has seen the same tokens, if possible."""
        return steps - steps % self.common if self.common and steps >= self.common else steps

    def is_aligned(self, steps: int) -> bool:
        """Whether every batch size has seen the same tokens after `steps` of the spec; if not, they differ by half a step."""
        return self.common is not None and steps % self.common == 0


def batches_of(spec: Spec, space: Mapping[str, RangeConfig]) -> Batches:
    """The batch sizes of a checked space."""
    own = dict(zip(FIELDS, (spec.train.micro_batches, spec.train.micro_batch_size), strict=True))
    sides = [[int(end or 1) for end in space[name].ends] if name in space else [value] for name, value in own.items()]
    sizes = [math.prod(sizes) for sizes in itertools.product(*sides)]
    ratio = max(1.0, max(sizes) / spec.samples_per_step)
    any_size = any(space[name].choice is None for name in FIELDS if name in space)
    return Batches(ratio, None if any_size else math.lcm(spec.samples_per_step, *sizes) // spec.samples_per_step)


def steps_follow(before: Spec, after: Spec) -> str:
    """Explain a change of `train.steps`: another batch size, the same tokens."""
    tokens = after.train.steps * after.tokens_per_step
    return (
        f"was {before.train.steps:,}; {tokens:,} tokens as before, in steps of {after.tokens_per_step:,} instead of "
        f"{before.tokens_per_step:,}"
    )
