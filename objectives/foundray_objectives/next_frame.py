"""Next frame: predict the frame some steps ahead from those before it (Chung et al. 2019, APC).

The loss is the mean absolute error over the frame's bins, three frames ahead: extrapolating the last frames would predict the
very next one.

Differs: a causal transformer rather than an LSTM (as in Chung & Glass 2020); frames are normalised by recording, not speaker.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, ClassVar

import numpy as np
from pydantic import PositiveInt

from foundray.contract import Objective, Plan, Target, Units, UnitShape

if TYPE_CHECKING:
    from torch import Tensor


class NextFrame(Objective):
    takes: ClassVar[tuple[str, ...]] = ("frames",)
    rebuilds: ClassVar[bool] = True
    loss_unit: ClassVar[str] = "absolute error per value"
    separable: ClassVar[bool] = True

    ahead: PositiveInt = 3
    """Distance to the predicted unit, in units; a recording no longer than this has no targets."""

    def heads(self, shape: UnitShape) -> dict[str, int]:
        return {"frames": shape.width}

    def plan(self, units: Units, rng: np.random.Generator) -> Plan:
        loss_mask = np.arange(len(units)) < len(units) - self.ahead
        return Plan(units, (Target("frames", np.roll(units.x, -self.ahead, 0), loss_mask),))

    def loss(self, prediction: Tensor, target: Tensor, loss_mask: Tensor) -> tuple[Tensor, Tensor]:
        errors = (prediction.float() - target).abs().mean(-1)
        return (errors * loss_mask).sum(), loss_mask.sum()

    def rebuilt(self, x: np.ndarray, answers: Mapping[str, np.ndarray], asked: np.ndarray) -> np.ndarray:
        return np.where(np.roll(asked, self.ahead)[:, None], np.roll(answers["frames"], self.ahead, 0), x)
