"""Contrastive: tell the other view of a sample from those of the other samples (Chen et al. 2020, SimCLR).

Each sample is augmented twice; the features' mean goes through a projector of two layers; cross-entropy over cosine
similarities by a temperature, of each view with all others. The projector is thrown away afterwards.

Differs: the others are those of the same micro-batch, never those of other workers: the loss depends on who shares a
micro-batch, which the order of samples decides, not the workers. So a micro-batch wants many samples here.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

import numpy as np
from pydantic import Field, PositiveInt

from foundray.contract import Ask, Objective, Plan, Units, UnitShape

if TYPE_CHECKING:
    from torch import Tensor


class Contrastive(Objective):
    takes: ClassVar[tuple[str, ...]] = ("patches", "frames", "series")
    causal: ClassVar[bool] = False
    couples: ClassVar[bool] = True

    temperature: float = Field(default=0.5, gt=0)
    """Of the softmax over similarities."""
    projector: tuple[PositiveInt, ...] = (128, 64)
    """Widths of the projector's layers."""

    def heads(self, shape: UnitShape) -> dict[str, int | tuple[int, ...]]:
        return {"projector": self.projector}

    def plan(self, units: Units, rng: np.random.Generator) -> Plan:
        return Plan(units, (Ask("projector", None),))

    def loss(self, prediction: Tensor, target: Tensor, where: Tensor) -> tuple[Tensor, Tensor]:
        import torch
        from torch.nn import functional as F

        views = F.normalize(prediction[:, 0].float(), dim=-1)
        rows = torch.arange(len(views), device=views.device)
        similar = (views @ views.T / self.temperature).masked_fill(rows[:, None] == rows, float("-inf"))
        return F.cross_entropy(similar, rows ^ 1, reduction="sum"), where.sum()  # a row's other view is its neighbour
