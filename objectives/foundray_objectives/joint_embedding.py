"""Joint embedding: predict what a teacher, which sees all, makes of the parts that are left out.

Of images (`drop`): I-JEPA (Assran et al. 2023). Four blocks are asked for; the encoder sees a large block without them, a
predictor answers; smooth L1 to the teacher's layer-normed features. Of any sequence (`hide`): data2vec (Baevski et al.
2022). Spans are hidden; the answer is the mean of the teacher's last layers, each normalised.

Differs: the predictor answers for all four blocks at once; a context has a fixed number of units, so that a micro-batch is
of one shape; layers are normalised over their features (data2vec for speech: over time); a class token only where
`model.class_unit` says so. The teacher's momentum rises linearly to 1 for both.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar, Literal

import numpy as np
from pydantic import Field, PositiveInt

from foundray.contract import WIDTH, Ask, Objective, Plan, Units, UnitShape
from foundray_objectives.masked_frame import spans

if TYPE_CHECKING:
    from torch import Tensor

BLOCKS, SCALE, ASPECT, CONTEXT_SCALE = 4, (0.15, 0.2), (0.75, 1.5), (0.85, 1.0)
"""I-JEPA's blocks: how many are asked for, their part of the image, their height by their width; and the context's part."""


class JointEmbedding(Objective):
    takes: ClassVar[tuple[str, ...]] = ("tokens", "patches", "frames", "series", "steps")
    causal: ClassVar[bool] = False
    teaches: ClassVar[bool] = True

    masking: Literal["drop", "hide"] = "hide"
    """`drop` blocks of an image (I-JEPA), or `hide` spans of any sequence (data2vec)."""
    shown: float = Field(default=0.4, gt=0, lt=1)
    """Of `drop`: part of the units in the context."""
    ratio: float = Field(default=0.5, gt=0, lt=1)
    """Of `hide`: part of the units that is hidden."""
    span: PositiveInt = 4
    """Of `hide`: units hidden in a row."""
    layers: PositiveInt = 8
    """Of `hide`: the teacher's last layers that the answer is the mean of (fewer where there are fewer)."""
    start_momentum: float = Field(default=0.996, ge=0, le=1)
    """Of the teacher, a step, at the start of the run; it rises to 1. The fewer steps, the lower."""

    @property
    def hides(self) -> bool:  # type: ignore[override]
        return self.masking == "hide"

    @property
    def predicts(self) -> bool:  # type: ignore[override]
        return self.masking == "drop"

    def heads(self, shape: UnitShape) -> dict[str, int]:
        if self.predicts and shape.grid is None:
            raise ValueError("objective.masking: drop needs units that lie in a plane, as those of images; hide takes any")
        return {"latent": WIDTH}

    def plan(self, units: Units, rng: np.random.Generator) -> Plan:
        if units.classes:
            units = units[:-1]  # the next sample's first
        if self.predicts:
            assert units.shape.grid is not None
            keep, asked = context_and_targets(units.shape.grid, round(self.shown * len(units)), rng)
            return Plan(units, (Ask("latent", None, asked),), keep=keep)
        hidden = spans(len(units), self.ratio, self.span, rng)
        return Plan(units, (Ask("latent", None, hidden),), hidden)

    def loss(self, prediction: Tensor, target: Tensor, where: Tensor) -> tuple[Tensor, Tensor]:
        from torch.nn import functional as F

        errors = F.smooth_l1_loss(prediction.float(), target.float(), reduction="none").mean(-1)
        return (errors * where).sum(), where.sum()

    def teacher_targets(self, states: Sequence[Tensor]) -> Tensor:
        from torch.nn import functional as F

        taken = states[-1:] if self.predicts else states[-self.layers :]
        total = F.layer_norm(taken[0].float(), taken[0].shape[-1:])
        for state in taken[1:]:
            total = total + F.layer_norm(state.float(), state.shape[-1:])
        return total / len(taken)

    def momentum(self, progress: float) -> float:
        return self.start_momentum + (1 - self.start_momentum) * progress


def context_and_targets(grid: tuple[int, int], shown: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """The `shown` units of the context, ascending, and [T] bool where the blocks are that are asked for."""
    asked = np.zeros(grid, bool)
    for _ in range(BLOCKS):
        asked[_block(grid, SCALE, ASPECT, rng)] = True
    context = np.zeros(grid, bool)
    context[_block(grid, CONTEXT_SCALE, (1.0, 1.0), rng)] = True
    # Those of the context block come first, then others; targets are given up where there are too few of both.
    order = np.argsort((2 * asked + ~context).flatten() + rng.random(asked.size) * 0.5)
    keep = np.sort(order[: max(1, min(shown, asked.size - 1))])
    flat = asked.flatten()
    flat[keep] = False
    if not flat.any():
        flat[order[-1]] = True
    return keep, flat


def _block(
    grid: tuple[int, int], scale: tuple[float, float], aspect: tuple[float, float], rng: np.random.Generator
) -> tuple[slice, slice]:
    rows, columns = grid
    area, shape = rng.uniform(*scale) * rows * columns, rng.uniform(*aspect)
    height = min(rows, max(1, round((area * shape) ** 0.5)))
    width = min(columns, max(1, round((area / shape) ** 0.5)))
    top, left = rng.integers(0, rows - height + 1), rng.integers(0, columns - width + 1)
    return slice(top, top + height), slice(left, left + width)
