"""Contrastive: find a sample's other view among the views of other samples (Chen et al. 2020, SimCLR).

Each sample is augmented twice, and its mean feature passes a projector of two layers. The loss is the cross-entropy over
cosine similarities, divided by a temperature, of each view with all others. The projector is discarded after training.

Differs: negatives come from the same micro-batch, never from other workers. The loss therefore depends on which samples share
a micro-batch, which the order of samples decides, not the workers, and micro-batches should be large.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

import numpy as np
from pydantic import Field, PositiveInt

from foundray.contract import Objective, Plan, Target, Units, UnitShape

if TYPE_CHECKING:
    from torch import Tensor


class Contrastive(Objective):
    takes: ClassVar[tuple[str, ...]] = ("patches", "frames", "series")
    causal: ClassVar[bool] = False
    couples: ClassVar[bool] = True
    loss_unit: ClassVar[str] = "nats per view"

    temperature: float = Field(default=0.5, gt=0)
    """Temperature of the softmax over similarities."""
    projector: tuple[PositiveInt, ...] = (128, 64)
    """Widths of the projector's layers."""

    def heads(self, shape: UnitShape) -> dict[str, int | tuple[int, ...]]:
        return {"projector": self.projector}

    def plan(self, units: Units, rng: np.random.Generator) -> Plan:
        return Plan(units, (Target("projector", None),))

    def loss(self, prediction: Tensor, target: Tensor, loss_mask: Tensor) -> tuple[Tensor, Tensor]:
        import torch
        from torch.nn import functional as F

        views = F.normalize(prediction[:, 0].float(), dim=-1)
        rows = torch.arange(len(views), device=views.device)
        similar = (views @ views.T / self.temperature).masked_fill(rows[:, None] == rows, float("-inf"))
        return F.cross_entropy(similar, rows ^ 1, reduction="sum"), loss_mask.sum()  # a row's other view is its neighbour
