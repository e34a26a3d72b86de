"""VICReg: make two views of a sample agree, and features vary without repeating each other (Bardes et al. 2022).

The loss, on the output of an expander, is the sum of invariance (mean squared difference of the views), variance (a hinge on
each feature's standard deviation over the samples) and covariance (squares off the diagonal), weighted 25, 25 and 1 by default.

Differs: no batch normalisation in the expander; the samples are those of one micro-batch, which the order of samples decides,
not the workers. The count is the number of samples in the micro-batch, so larger ones weigh more.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

import numpy as np
from pydantic import NonNegativeFloat, PositiveInt

from foundray.contract import Objective, Plan, Target, Units, UnitShape

if TYPE_CHECKING:
    from torch import Tensor


class VicReg(Objective):
    takes: ClassVar[tuple[str, ...]] = ("patches", "frames", "series")
    causal: ClassVar[bool] = False
    couples: ClassVar[bool] = True
    loss_unit: ClassVar[str] = "VICReg terms per sample"

    invariance: NonNegativeFloat = 25.0
    """Weight of the views' difference."""
    variance: NonNegativeFloat = 25.0
    """Weight of the hinge on each feature's standard deviation."""
    covariance: NonNegativeFloat = 1.0
    """Weight of the covariance between features."""
    expander: tuple[PositiveInt, ...] = (256, 256)
    """Widths of the expander's layers."""

    def heads(self, shape: UnitShape) -> dict[str, int | tuple[int, ...]]:
        return {"expander": self.expander}

    def plan(self, units: Units, rng: np.random.Generator) -> Plan:
        return Plan(units, (Target("expander", None),))

    def loss(self, prediction: Tensor, target: Tensor, loss_mask: Tensor) -> tuple[Tensor, Tensor]:
        views = prediction[:, 0].float()
        one, other = views[::2], views[1::2]
        samples, count = len(one), loss_mask.sum() // 2
        mean = self.invariance * (one - other).pow(2).mean()
        if samples > 1:  # one sample has no variance
            for view in (one, other):
                centred = view - view.mean(0)
                covariance = centred.T @ centred / (samples - 1)
                deviation = (covariance.diagonal() + 1e-4).sqrt()
                mean = mean + self.variance * (1 - deviation).relu().mean() / 2
                common = covariance.pow(2).sum() - covariance.diagonal().pow(2).sum()
                mean = mean + self.covariance * common / views.shape[1]
        return mean * count, count
