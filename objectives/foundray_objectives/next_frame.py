"""Next frame: predict the frame some steps ahead from those before it (Chung et al. 2019, APC).

Mean absolute error over the frame's bins, three frames ahead: the very next one can be told by continuing the last ones.

Differs: a causal transformer rather than an LSTM (as in Chung & Glass 2020); frames are normalised by recording, not speaker.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

import numpy as np
from pydantic import PositiveInt

from foundray.contract import Ask, Objective, Plan, Units, UnitShape

if TYPE_CHECKING:
    from torch import Tensor


class NextFrame(Objective):
    takes: ClassVar[tuple[str, ...]] = ("frames",)

    ahead: PositiveInt = 3
    """How far ahead the predicted unit is, in units; a recording that is no longer than this asks nothing."""

    def heads(self, shape: UnitShape) -> dict[str, int]:
        return {"frames": shape.width}

    def plan(self, units: Units, rng: np.random.Generator) -> Plan:
        asked = np.arange(len(units)) < len(units) - self.ahead
        return Plan(units, (Ask("frames", np.roll(units.x, -self.ahead, 0), asked),))

    def loss(self, prediction: Tensor, target: Tensor, where: Tensor) -> tuple[Tensor, Tensor]:
        errors = (prediction.float() - target).abs().mean(-1)
        return (errors * where).sum(), where.sum()
