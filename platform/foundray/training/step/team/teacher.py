"""The EMA teacher of a team: its network's units are gathered like the model's."""

from __future__ import annotations

import torch
from torch import Tensor

from foundray.contract import Objective
from foundray.model.model import Batch, Model
from foundray.training.step.teacher import Teacher, unhidden
from foundray.training.step.team.parameters import TeamParameters
from foundray.training.step.team.passes import Passes


class TeamTeacher(Teacher):
    def __init__(
        self, network: Model, objective: Objective, of_model: TeamParameters, of_teacher: TeamParameters, encoding: range
    ):
        """`network` has the weights of `of_teacher`; `encoding` are the encoder's units."""
        self.model, self.objective, self.student = network, objective, of_model.buffer
        self.parameters, self.buffer = of_teacher, of_teacher.buffer
        self.passes, self.encoding = Passes(of_teacher), encoding

    @torch.no_grad()
    def targets(self, batch: Batch | None) -> Tensor | None:  # type: ignore[override]
        """As of `Teacher`; without a batch, only gather for the others. None also if this member's memory is too small."""
        if batch is None:
            self.passes.forward([], None, self.encoding)
            return None
        states: list[Tensor] = []
        batch, self.passes.out_of_memory = unhidden(batch), False
        self.passes.forward(self.model.encoder(batch, states), batch.x, self.encoding)
        if self.passes.out_of_memory:
            return None
        return self.objective.teacher_targets([self.model.of_units(state) for state in states])
