"""Masked token: predict masked tokens from all others of their document (Devlin et al. 2019, BERT).

Differs: 30 % are masked by default rather than 15 % (Wettig et al. 2023 found up to 40 % better), a fixed number per sample,
all by the mask vector; `random` and `same` restore BERT's 80/10/10. There is no next-sentence task.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, ClassVar

import numpy as np
from pydantic import Field

from foundray.contract import Objective, Plan, Target, Units, UnitShape, cross_entropy

if TYPE_CHECKING:
    from torch import Tensor


class MaskedToken(Objective):
    causal: ClassVar[bool] = False
    masks: ClassVar[bool] = True
    separable: ClassVar[bool] = True
    becomes: ClassVar[str] = "masked_lm"
    loss_unit: ClassVar[str] = "nats per token"

    ratio: float = Field(default=0.3, gt=0, lt=1)
    """Fraction of a sample's tokens to predict."""
    random: float = Field(default=0.0, ge=0, le=1)
    """Fraction of those that a random token replaces, instead of the mask."""
    same: float = Field(default=0.0, ge=0, le=1)
    """Fraction of those that is left unchanged."""

    def heads(self, shape: UnitShape) -> dict[str, int]:
        return {"lm_head": shape.classes}

    def plan(self, units: Units, rng: np.random.Generator) -> Plan:
        units = units[:-1]  # the last token is the next sample's first, and may be masked there
        loss_mask = np.zeros(len(units), bool)
        loss_mask[rng.permutation(len(units))[: max(1, round(self.ratio * len(units)))]] = True
        draw = rng.random(len(units))
        randomised = loss_mask & (draw < self.random)
        shown = np.where(randomised, rng.integers(0, units.classes, len(units)), units.x)
        masked = loss_mask & (draw >= self.random + self.same)
        return Plan(replace(units, x=shown), (Target("lm_head", units.x, loss_mask),), masked)

    def loss(self, prediction: Tensor, target: Tensor, loss_mask: Tensor) -> tuple[Tensor, Tensor]:
        return cross_entropy(prediction, target, loss_mask)
