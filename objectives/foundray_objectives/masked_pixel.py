"""Masked pixels: predict the dropped patches of an image from the others (He et al. 2022, MAE).

Three quarters of the patches are dropped; the encoder sees the rest, and the light predictor all positions. The target is
the patch's pixels, normalised by its own mean and (unbiased) variance.

Differs: a class token only if `model.class_unit` is set.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, ClassVar

import numpy as np
from pydantic import Field

from foundray.contract import Objective, Plan, Target, Units, UnitShape, squared_error

if TYPE_CHECKING:
    from torch import Tensor


class MaskedPixel(Objective):
    takes: ClassVar[tuple[str, ...]] = ("patches",)
    causal: ClassVar[bool] = False
    predicts: ClassVar[bool] = True
    rebuilds: ClassVar[bool] = True
    separable: ClassVar[bool] = True
    becomes: ClassVar[str] = "mae"
    loss_unit: ClassVar[str] = "squared error per value"

    ratio: float = Field(default=0.75, gt=0, lt=1)
    """Fraction of the patches that is dropped."""

    def heads(self, shape: UnitShape) -> dict[str, int]:
        return {"pixels": shape.width}

    def plan(self, units: Units, rng: np.random.Generator) -> Plan:
        count = max(1, int(len(units) * (1 - self.ratio)))
        visible = np.sort(rng.permutation(len(units))[:count])
        loss_mask = np.ones(len(units), bool)
        loss_mask[visible] = False
        return Plan(units, (Target("pixels", normalised(units.x), loss_mask),), visible=visible)

    def loss(self, prediction: Tensor, target: Tensor, loss_mask: Tensor) -> tuple[Tensor, Tensor]:
        return squared_error(prediction, target, loss_mask)

    def rebuilt(self, x: np.ndarray, answers: Mapping[str, np.ndarray], asked: np.ndarray) -> np.ndarray:
        return np.where(asked[:, None], denormalised(answers["pixels"], x), x)


def normalised(patches: np.ndarray) -> np.ndarray:
    """Normalise each patch of [T, K] by its own mean and unbiased variance."""
    mean, variance = patches.mean(-1, keepdims=True), patches.var(-1, ddof=1, keepdims=True)
    return (patches - mean) / np.sqrt(variance + 1e-6)


def denormalised(predicted: np.ndarray, patches: np.ndarray) -> np.ndarray:
    """Predictions [T, K] of normalised patches as pixels: with the mean and variance of the true patches."""
    mean, variance = patches.mean(-1, keepdims=True), patches.var(-1, ddof=1, keepdims=True)
    shown: np.ndarray = predicted * np.sqrt(variance + 1e-6) + mean
    return shown
