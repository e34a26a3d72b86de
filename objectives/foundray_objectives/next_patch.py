"""Next patch: predict each patch of an image, in raster order, from those before it (El-Nouby et al. 2024, AIM).

The loss is the mean squared error on the patch's pixels, normalised as in masked pixels.

Differs: attention is causal throughout; AIM lets a random prefix see itself.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from foundray.contract import Objective, Plan, Target, Units, UnitShape, squared_error
from foundray_objectives.masked_pixel import denormalised, normalised

if TYPE_CHECKING:
    from torch import Tensor


class NextPatch(Objective):
    takes: ClassVar[tuple[str, ...]] = ("patches",)
    rebuilds: ClassVar[bool] = True
    loss_unit: ClassVar[str] = "squared error per value"
    separable: ClassVar[bool] = True

    def heads(self, shape: UnitShape) -> dict[str, int]:
        return {"pixels": shape.width}

    def plan(self, units: Units, rng: np.random.Generator) -> Plan:
        following = normalised(units.x)
        loss_mask = np.arange(len(units)) < len(units) - 1  # the last has no next one
        return Plan(units, (Target("pixels", np.roll(following, -1, 0), loss_mask),))

    def loss(self, prediction: Tensor, target: Tensor, loss_mask: Tensor) -> tuple[Tensor, Tensor]:
        return squared_error(prediction, target, loss_mask)

    def rebuilt(self, x: np.ndarray, answers: Mapping[str, np.ndarray], asked: np.ndarray) -> np.ndarray:
        following = np.roll(asked, 1)  # a patch is predicted at the one before it
        return np.where(following[:, None], denormalised(np.roll(answers["pixels"], 1, 0), x), x)
