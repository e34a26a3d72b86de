"""Next state: a model of the world, which tells what an action does to a state (as in Ha and Schmidhuber 2018).

Units are return-to-go, state and action, in turn. Asked at the action: by how much the state changes until the next one;
mean squared error on the standardised states' difference.

Differs: the whole history is seen through attention, and the answer is a difference rather than a mixture of densities. The
return-to-go, which tells of the future, is hidden.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

import numpy as np
from pydantic import Field

from foundray.contract import Ask, Objective, Plan, Units, UnitShape, squared_error
from foundray_objectives.next_action import ACTION, RETURN, STATE

if TYPE_CHECKING:
    from torch import Tensor


class NextState(Objective):
    takes: ClassVar[tuple[str, ...]] = ("steps",)
    hides: ClassVar[bool] = True
    becomes: ClassVar[str] = "decision_transformer"

    scale: float = Field(default=1.0, gt=0)
    """What differences are multiplied by: the inverse of their usual size brings the loss near one."""

    def heads(self, shape: UnitShape) -> dict[str, int]:
        return {"state": shape.kinds[STATE].width}

    def plan(self, units: Units, rng: np.random.Generator) -> Plan:
        kinds, width = len(units.shape.kinds), units.shape.kinds[STATE].width
        turn = np.arange(len(units)) % kinds
        states = units.x[turn == STATE, :width]
        target = np.zeros((len(units), width), np.float32)
        target[ACTION::kinds][: len(states) - 1] = np.diff(states, axis=0) * self.scale
        asked = (turn == ACTION) & (np.arange(len(units)) < len(units) - kinds)  # nothing follows the last
        return Plan(units, (Ask("state", target, asked),), hidden=turn == RETURN)

    def loss(self, prediction: Tensor, target: Tensor, where: Tensor) -> tuple[Tensor, Tensor]:
        return squared_error(prediction, target, where)
