"""A teacher: the moving average of a model's weights over its updates (Tarvainen and Valpola 2017), which gives targets.

Its weights are one more tensor of the flat state: an owner moves its shard once an update, all hold the whole, and it is
checkpointed and mirrored like the rest.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor
from torch.func import functional_call

from foundray.contract import Objective
from foundray.model.model import Batch, Model
from foundray.training.step.flat import FlatParameters

NAME = "teacher"
"""Of its tensor in the state."""


class Teacher:
    def __init__(self, model: Model, objective: Objective, flat: FlatParameters):
        self.model, self.objective, self.flat = model, objective, flat
        self.buffer = flat.buffer.clone()
        """Like that of the model's parameters."""
        self.weights = {e.name: self.buffer[e.elements].view(e.shape) for e in flat.layout.entries}

    def begin(self) -> None:
        """Know what the model knows."""
        self.buffer.copy_(self.flat.buffer)

    def follow(self, blocks: range, progress: float) -> None:
        """Move a shard towards the model's, after an update, when `progress` of the run was done before it."""
        mine = self.flat.part(self.buffer, blocks)
        way = self.flat.shard(blocks) - mine
        way *= 1 - self.objective.momentum(progress)
        mine += way  # three rounded operations: a fused one may round otherwise at the end of a shard

    @torch.no_grad()
    def targets(self, batch: Batch) -> Tensor:
        """[B, T, D]: what the objective takes from a teacher that is shown all units."""
        states: list[Tensor] = []
        functional_call(self.model, self.weights, (replace(batch, hidden=None, keep=None, asks={}), states))
        return self.objective.teacher_targets([self.model.of_units(state) for state in states])
