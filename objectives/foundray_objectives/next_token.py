"""Next token: predict each token from those before it, inside its document (Radford et al. 2018, GPT)."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

import numpy as np

from foundray.contract import Objective, Plan, Target, Units, UnitShape, cross_entropy

if TYPE_CHECKING:
    from torch import Tensor


class NextToken(Objective):
    """Causal cross-entropy. The opening token of the next document is predicted too, because it ends a text."""

    loss_unit: ClassVar[str] = "nats per token"
    continues: ClassVar[bool] = True
    scores: ClassVar[bool] = True
    separable: ClassVar[bool] = True
    becomes: ClassVar[str] = "causal_lm"

    def heads(self, shape: UnitShape) -> dict[str, int]:
        return {"lm_head": shape.classes}

    def plan(self, units: Units, rng: np.random.Generator) -> Plan:
        return Plan(units[:-1], (Target("lm_head", units.x[1:]),))

    def loss(self, prediction: Tensor, target: Tensor, loss_mask: Tensor) -> tuple[Tensor, Tensor]:
        return cross_entropy(prediction, target, loss_mask)
