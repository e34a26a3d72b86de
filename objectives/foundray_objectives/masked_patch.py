"""Masked patches of a series: predict masked stretches of time from the others (Nie et al. 2023, PatchTST).

40 % of the patches are masked; channels are independent samples, each window normalised by its own mean and variance. The
loss is the mean squared error on the masked patches.

Differs: a learned vector replaces masked patches, rather than zeros; positions are rotary.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, ClassVar

import numpy as np
from pydantic import Field

from foundray.contract import Objective, Plan, Target, Units, UnitShape, squared_error

if TYPE_CHECKING:
    from torch import Tensor


class MaskedPatch(Objective):
    takes: ClassVar[tuple[str, ...]] = ("series",)
    causal: ClassVar[bool] = False
    masks: ClassVar[bool] = True
    rebuilds: ClassVar[bool] = True
    loss_unit: ClassVar[str] = "squared error per value"
    separable: ClassVar[bool] = True

    ratio: float = Field(default=0.4, gt=0, lt=1)
    """Fraction of the patches that is masked."""

    def heads(self, shape: UnitShape) -> dict[str, int]:
        return {"patch": shape.width}

    def plan(self, units: Units, rng: np.random.Generator) -> Plan:
        visible = int(len(units) * (1 - self.ratio))
        masked = np.zeros(len(units), bool)
        masked[rng.permutation(len(units))[min(visible, len(units) - 1) :]] = True
        return Plan(units, (Target("patch", units.x, masked),), masked)

    def loss(self, prediction: Tensor, target: Tensor, loss_mask: Tensor) -> tuple[Tensor, Tensor]:
        return squared_error(prediction, target, loss_mask)

    def rebuilt(self, x: np.ndarray, answers: Mapping[str, np.ndarray], asked: np.ndarray) -> np.ndarray:
        return np.where(asked[:, None], answers["patch"], x)
