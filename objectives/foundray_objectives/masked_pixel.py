"""Masked pixels: predict the patches that are left out of an image from the others (He et al. 2022, MAE).

Three quarters of the patches are dropped; the encoder sees the rest, the light predictor all places. The answer is the
patch's pixels, normalised by its own mean and (unbiased) variance.

Differs: a class token only where `model.class_unit` says so.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

import numpy as np
from pydantic import Field

from foundray.contract import Ask, Objective, Plan, Units, UnitShape, squared_error

if TYPE_CHECKING:
    from torch import Tensor


class MaskedPixel(Objective):
    takes: ClassVar[tuple[str, ...]] = ("patches",)
    causal: ClassVar[bool] = False
    predicts: ClassVar[bool] = True
    becomes: ClassVar[str] = "mae"

    ratio: float = Field(default=0.75, gt=0, lt=1)
    """Part of the patches that is dropped."""

    def heads(self, shape: UnitShape) -> dict[str, int]:
        return {"pixels": shape.width}

    def plan(self, units: Units, rng: np.random.Generator) -> Plan:
        kept = max(1, int(len(units) * (1 - self.ratio)))
        keep = np.sort(rng.permutation(len(units))[:kept])
        asked = np.ones(len(units), bool)
        asked[keep] = False
        return Plan(units, (Ask("pixels", normalised(units.x), asked),), keep=keep)

    def loss(self, prediction: Tensor, target: Tensor, where: Tensor) -> tuple[Tensor, Tensor]:
        return squared_error(prediction, target, where)


def normalised(patches: np.ndarray) -> np.ndarray:
    """[T, K]: each patch by its own mean and unbiased variance."""
    mean, variance = patches.mean(-1, keepdims=True), patches.var(-1, ddof=1, keepdims=True)
    return (patches - mean) / np.sqrt(variance + 1e-6)
