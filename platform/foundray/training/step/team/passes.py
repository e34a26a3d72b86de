"""Forward and backward passes over units that are gathered, stage by stage.

All members make the same collectives in the same order: a function of the model alone, never of the data. A member without a
micro-batch in a round makes them, too. The graph is cut between units, so nothing hooks into autograd, and gradients have the
bits of an uncut graph.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from torch import Tensor

from foundray.model.backbone import Stage
from foundray.training.step.blocks import BLOCK
from foundray.training.step.gradient_sum import GradientSum, overflows
from foundray.training.step.team.parameters import TeamParameters


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
        self.checksum: int | None = None
        """CRC-32 of the gradients that this member has sent since it was set to 0; None if nobody asks for it."""

    def forward(self, stages: Sequence[Stage], hidden: Tensor | None, units: range) -> list[Passed]:
        """Compute stages, one per unit of `units`; without `hidden`, or without a stage, only gather for the others.

        Each stage's graph starts at what enters it.
        """
        passed: list[Passed] = []
        for unit in units:
            with self.parameters.gathered([unit]):
                if hidden is not None and len(passed) < len(stages):
                    entering = hidden.detach()
                    entering.requires_grad_(hidden.is_floating_point() and hidden.requires_grad)
                    hidden = stages[len(passed)](entering)
                    passed.append(Passed(entering, hidden))
        return passed

    def backward(self, passed: Sequence[Passed], gradient: Tensor | None, add: Callable[[int], None]) -> None:
        """Compute the gradients of the stages before the heads, last unit first; `add` takes each unit's gradient."""
        for unit in reversed(range(self.last)):
            self.parameters.gather(unit)
            if gradient is not None and unit < len(passed):
                stage = passed[unit]
                stage.leaving.backward(gradient)
                gradient = stage.entering.grad
            add(unit)

    def add(self, unit: int, total: GradientSum, left_out: Sequence[bool]) -> list[bool]:
        """Send a unit's gradient to the members that hold it, and add what arrives here to the sum.

        `left_out` names the members whose micro-batch is not to be added. Returns whose gradient does not fit the sum.
        """
        held = self.parameters.held[unit]
        wrong = []
        received, self.checksum = self.parameters.units[unit].send(self.checksum)
        for gradient, out in zip(received, left_out, strict=True):
            wrong.append(bool(len(gradient)) and not out and bool(overflows(gradient, total.limit)))
            if len(gradient) and not out and not wrong[-1]:
                total.add(gradient, held.first * BLOCK)
        return wrong
