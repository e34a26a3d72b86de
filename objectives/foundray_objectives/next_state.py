"""Next state: a world model, which predicts the effect of an action on a state (as in Ha and Schmidhuber 2018).

Units are return-to-go, state and action, in turn. At the action, the model predicts the change of the state until the next
one; the loss is the mean squared error on the standardised states' difference.

Differs: attention sees the whole history, and the prediction is a difference rather than a mixture of densities. The
return-to-go, which depends on the future, is masked.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

import numpy as np
from pydantic import Field

from foundray.contract import Objective, Plan, Target, Units, UnitShape, squared_error
from foundray_objectives.next_action import ACTION, RETURN, STATE

if TYPE_CHECKING:
    from torch import Tensor


class NextState(Objective):
    takes: ClassVar[tuple[str, ...]] = ("steps",)
    masks: ClassVar[bool] = True
    separable: ClassVar[bool] = True
    becomes: ClassVar[str] = "decision_transformer"
    loss_unit: ClassVar[str] = "squared error per value"

    scale: float = Field(default=1.0, gt=0)
    """Factor on differences; the inverse of their typical size brings the loss near one."""

    def heads(self, shape: UnitShape) -> dict[str, int]:
        return {"state": shape.kinds[STATE].width}

    def plan(self, units: Units, rng: np.random.Generator) -> Plan:
        kinds, width = len(units.shape.kinds), units.shape.kinds[STATE].width
        turn = np.arange(len(units)) % kinds
        states = units.x[turn == STATE, :width]
        target = np.zeros((len(units), width), np.float32)
        target[ACTION::kinds][: len(states) - 1] = np.diff(states, axis=0) * self.scale
        loss_mask = (turn == ACTION) & (np.arange(len(units)) < len(units) - kinds)  # the last has no next one
        return Plan(units, (Target("state", target, loss_mask),), masked=turn == RETURN)

    def loss(self, prediction: Tensor, target: Tensor, loss_mask: Tensor) -> tuple[Tensor, Tensor]:
        return squared_error(prediction, target, loss_mask)
