"""The EMA teacher: a moving average of the model's weights over updates (Tarvainen and Valpola 2017), which gives targets.

Its weights are one more tensor of the flat state: each owner updates its shard once per update, every worker holds all of it,
and it is checkpointed and replicated like the rest.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor
from torch.func import functional_call

from foundray.contract import Objective
from foundray.model.model import Batch, Model
from foundray.training.step.flat import FlatParameters, part

NAME = "teacher"
"""Name of its tensor in the state."""


class Teacher:
    def __init__(self, model: Model, objective: Objective, flat: FlatParameters):
        self.model, self.objective, self.student = model, objective, flat.buffer
        self.buffer = flat.buffer.clone()
        """The weights, laid out like the model's."""
        self.weights = {e.name: self.buffer[e.elements].view(e.shape) for e in flat.layout.entries}

    def begin(self) -> None:
        """Copy the model's weights."""
        self.buffer.copy_(self.student)

    def follow(self, own: range, progress: float) -> None:
        """Move a shard towards the model's after an update; `progress` is the fraction of the run done before it."""
        mine = part(self.buffer, own)
        difference = part(self.student, own) - mine
        difference *= 1 - self.objective.momentum(progress)
        mine += difference  # three rounded operations: a fused one may round differently at the end of a shard

    @torch.no_grad()
    def targets(self, batch: Batch) -> Tensor:
        """Targets [B, T, D] that the objective takes from a teacher that sees all units."""
        states: list[Tensor] = []
        functional_call(self.model, self.weights, (unhidden(batch), states))
        return self.objective.teacher_targets([self.model.of_units(state) for state in states])


def unhidden(batch: Batch) -> Batch:
    """The batch as a teacher sees it: all units, and nothing to predict."""
    return replace(batch, masked=None, visible=None, targets={})
