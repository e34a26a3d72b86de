"""Next action: predict the action in a state, given the return-to-go (Chen et al. 2021, Decision Transformer).

Units are return-to-go, state and action, in turn. The prediction is made at the state: mean squared error, or cross-entropy
if actions are discrete. Given a desired return, such a model acts to achieve it.

Differs: rotary positions encode a unit's position in the context, besides the embedded time (the modality's `longest`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

import numpy as np

from foundray.contract import Objective, Plan, Target, Units, UnitShape, cross_entropy, squared_error

if TYPE_CHECKING:
    from torch import Tensor

RETURN, STATE, ACTION = range(3)
"""Order of a step's units."""


class NextAction(Objective):
    takes: ClassVar[tuple[str, ...]] = ("steps",)
    separable: ClassVar[bool] = True
    becomes: ClassVar[str] = "decision_transformer"
    loss_unit: ClassVar[str] = "squared error or nats per action"

    def heads(self, shape: UnitShape) -> dict[str, int]:
        return {"action": shape.kinds[ACTION].width}

    def plan(self, units: Units, rng: np.random.Generator) -> Plan:
        action = units.shape.kinds[ACTION]
        following = np.roll(units.x[:, : action.width], -1, 0)
        loss_mask = np.arange(len(units)) % len(units.shape.kinds) == STATE
        return Plan(units, (Target("action", following.argmax(-1) if action.discrete else following, loss_mask),))

    def loss(self, prediction: Tensor, target: Tensor, loss_mask: Tensor) -> tuple[Tensor, Tensor]:
        return (squared_error if target.is_floating_point() else cross_entropy)(prediction, target, loss_mask)
