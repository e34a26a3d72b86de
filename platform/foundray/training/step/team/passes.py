"""Forward and backward passes over units that are gathered, stage by stage.

All members make the same collectives in the same order: a function of the model alone, never of the data. A member without a
micro-batch in a round makes them, too. The graph is cut between units, so nothing hooks into autograd, and gradients have the
bits of an uncut graph.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

import torch
from torch import Tensor

from foundray.model.backbone import Stage
from foundray.training.step.blocks import BLOCK
from foundray.training.step.gradient_sum import GradientSum, overflows
from foundray.training.step.team.parameters import TeamParameters

Computed = TypeVar("Computed")


@dataclass(frozen=True)
class Passed:
    """What a stage computed, and from what."""

    entering: Tensor
    leaving: Tensor


class Passes:
    def __init__(self, parameters: TeamParameters):
        self.parameters = parameters
        self.last = len(parameters.units) - 1
        """The heads."""
        self.out_of_memory = False
        """Whether memory was too small for a stage since this was set to False; this member then gathers for the others."""
        self.checksum: int | None = None
        """CRC-32 of the gradients that this member has sent since it was set to 0; None if nobody asks for it."""

    def forward(self, stages: Sequence[Stage], hidden: Tensor | None, units: range) -> list[Passed]:
        """Compute stages, one per unit of `units`; without `hidden`, or without a stage, only gather for the others.

        Each stage's graph starts at what enters it. Without gradients, only the last stage's is kept.
        """
        passed: list[Passed] = []
        for index, (unit, following) in enumerate(zip(units, [*units[1:], None], strict=False)):
            self.parameters.gather(unit, following)
            if hidden is not None and index < len(stages):
                entering = hidden.detach()
                entering.requires_grad_(hidden.is_floating_point() and hidden.requires_grad)
                hidden = self.fitting(partial(stages[index], entering))
                if hidden is None or not torch.is_grad_enabled():
                    passed.clear()
                if hidden is not None:
                    passed.append(Passed(entering, hidden))
            self.parameters.units[unit].free()
        return passed

    def backward(self, passed: Sequence[Passed], gradient: Tensor | None, add: Callable[[int], None]) -> None:
        """Compute the gradients of the stages before the heads, last unit first; `add` takes each unit's gradient."""
        for unit in reversed(range(self.last)):
            self.parameters.gather(unit, unit - 1 if unit else None)
            if gradient is not None and unit < len(passed):
                stage = passed[unit]
                self.fitting(partial(self.backward_of, unit, stage.leaving, gradient))
                gradient = None if self.out_of_memory else stage.entering.grad
            add(unit)

    def backward_of(self, unit: int, leaving: Tensor, gradient: Tensor | None = None) -> None:
        """Compute the gradient of a unit that is gathered, from that of what leaves it."""
        self.parameters.units[unit].expect()
        leaving.backward(gradient)

    def fitting(self, compute: Callable[[], Computed]) -> Computed | None:
        """Compute; None, and a note of it, if this member's memory is too small: the others wait for its collectives."""
        if not self.out_of_memory:
            try:
                return compute()
            except torch.OutOfMemoryError:
                self.out_of_memory = True
        return None

    def check(self) -> None:
        """Raise OutOfMemoryError if this member's memory was too small."""
        if self.out_of_memory:
            raise torch.OutOfMemoryError("this worker's memory is too small for a micro-batch")

    def add(self, unit: int, total: GradientSum, left_out: Sequence[bool]) -> list[bool]:
        """Send a unit's gradient to the members that hold it, and add what arrives here to the sum.

        `left_out` names the members whose micro-batch is not to be added. Returns whose gradient does not fit the sum.
        """
        wrong = [False] * len(left_out)
        at = self.parameters.held[unit].first * BLOCK
        received, self.checksum = self.parameters.units[unit].send(self.checksum)
        for piece in received:
            for member, gradient in enumerate(piece):
                if len(gradient) and not left_out[member]:
                    wrong[member] |= bool(overflows(gradient, total.limit))
                    if not wrong[member]:
                        total.add(gradient, at)
            at += piece.shape[1]
        return wrong
