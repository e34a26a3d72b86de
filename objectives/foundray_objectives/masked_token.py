"""Masked token: predict hidden tokens from all others of their document (Devlin et al. 2019, BERT).

Differs: 30 % are hidden by default rather than 15 % (Wettig et al. 2023 found up to 40 % better), all of them behind the
mask vector, a fixed number a sample; `random` and `same` bring BERT's 80/10/10 back. There is no next-sentence task.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, ClassVar

import numpy as np
from pydantic import Field

from foundray.contract import Ask, Objective, Plan, Units, UnitShape, cross_entropy

if TYPE_CHECKING:
    from torch import Tensor


class MaskedToken(Objective):
    causal: ClassVar[bool] = False
    hides: ClassVar[bool] = True
    becomes: ClassVar[str] = "masked_lm"

    ratio: float = Field(default=0.3, gt=0, lt=1)
    """Part of a sample's tokens that is asked for."""
    random: float = Field(default=0.0, ge=0, le=1)
    """Part of those that is shown as a random token instead of the mask."""
    same: float = Field(default=0.0, ge=0, le=1)
    """Part of those that is shown as it is."""

    def heads(self, shape: UnitShape) -> dict[str, int]:
        return {"lm_head": shape.classes}

    def plan(self, units: Units, rng: np.random.Generator) -> Plan:
        units = units[:-1]  # the next sample's first token is masked there, or not
        asked = np.zeros(len(units), bool)
        asked[rng.permutation(len(units))[: max(1, round(self.ratio * len(units)))]] = True
        how = rng.random(len(units))
        randomly = asked & (how < self.random)
        shown = np.where(randomly, rng.integers(0, units.classes, len(units)), units.x)
        hidden = asked & (how >= self.random + self.same)
        return Plan(replace(units, x=shown), (Ask("lm_head", units.x, asked),), hidden)

    def loss(self, prediction: Tensor, target: Tensor, where: Tensor) -> tuple[Tensor, Tensor]:
        return cross_entropy(prediction, target, where)
