"""Masked frames: predict the classes of masked spans of sound from the rest (Chiu et al. 2022, BEST-RQ).

A unit's class is the codebook vector nearest to its random projection, both of unit length. Neither is learned.

Differs: a learned vector replaces masked units, rather than noise; a fixed fraction of a recording is masked, in spans that do
not overlap; the projection is Xavier-normal.
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, ClassVar

import numpy as np
from pydantic import Field, NonNegativeInt, PositiveInt

from foundray.contract import Objective, Plan, Target, Units, UnitShape, cross_entropy

if TYPE_CHECKING:
    from torch import Tensor


class MaskedFrame(Objective):
    takes: ClassVar[tuple[str, ...]] = ("frames",)
    causal: ClassVar[bool] = False
    masks: ClassVar[bool] = True
    loss_unit: ClassVar[str] = "nats per frame"
    separable: ClassVar[bool] = True

    codes: int = Field(default=8192, ge=2)
    """Vectors in the codebook; 256 to 512 for hours of sound rather than thousands of hours."""
    code_width: PositiveInt = 16
    """Width of a codebook vector."""
    span: PositiveInt = 40
    """Longest masked span, in units: 400 ms of the default frames."""
    ratio: float = Field(default=0.4, gt=0, lt=1)
    """Fraction of a recording that is masked."""
    seed: NonNegativeInt = 0
    """Seed of projection and codebook."""

    def heads(self, shape: UnitShape) -> dict[str, int]:
        return {"codes": self.codes}

    def plan(self, units: Units, rng: np.random.Generator) -> Plan:
        projection, codebook = quantiser(units.x.shape[1], self.codes, self.code_width, self.seed)
        classes = (units.x @ projection @ codebook.T).argmax(1)  # nearest unit vector, whatever the length of the projection
        masked = spans(len(units), self.ratio, self.span, rng)
        return Plan(units, (Target("codes", classes, masked),), masked)

    def loss(self, prediction: Tensor, target: Tensor, loss_mask: Tensor) -> tuple[Tensor, Tensor]:
        return cross_entropy(prediction, target, loss_mask)


@lru_cache(4)
def quantiser(width: int, codes: int, code_width: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Projection [width, code_width] and codebook of unit vectors [codes, code_width]; float64, so that ties do not occur."""
    rng = np.random.Generator(np.random.Philox(key=seed))
    projection = rng.standard_normal((width, code_width)) * (2 / (width + code_width)) ** 0.5
    codebook = rng.standard_normal((codes, code_width))
    return projection, codebook / np.linalg.norm(codebook, axis=1, keepdims=True)


def spans(length: int, ratio: float, longest: int, rng: np.random.Generator) -> np.ndarray:
    """Mask [length] bool: a fixed number of masked units, at least one, in as few spans as possible, of about equal length.

    Spans may touch, but never overlap.
    """
    count = max(1, round(length * ratio))
    lengths = [len(part) for part in np.array_split(np.arange(count), -(-count // longest))]
    starts = np.sort(rng.integers(0, length - count + 1, len(lengths)))  # positions among the visible units
    return np.insert(np.zeros(length - count, bool), np.repeat(starts, lengths), True)
