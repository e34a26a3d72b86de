"""Joint embedding: predict the features that a teacher, which sees all units, has for the missing ones.

For images (`drop`): I-JEPA (Assran et al. 2023). The targets are four blocks; the encoder sees a large block without them, and
a predictor answers. The loss is smooth L1 to the teacher's layer-normed features. For any sequence (`hide`): data2vec (Baevski
et al. 2022). Spans are masked; the target is the mean of the teacher's last layers, each normalised.

Differs: the predictor answers for all four blocks at once; a context has a fixed number of units, so that a micro-batch has
one shape; layers are normalised over their features (data2vec for speech: over time); a class token only if
`model.class_unit` is set. The teacher's momentum rises linearly to 1 for both.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar, Literal

import numpy as np
from pydantic import Field, PositiveInt

from foundray.contract import WIDTH, Objective, Plan, Target, Units, UnitShape
from foundray_objectives.masked_frame import spans

if TYPE_CHECKING:
    from torch import Tensor

BLOCKS, SCALE, ASPECT, CONTEXT_SCALE = 4, (0.15, 0.2), (0.75, 1.5), (0.85, 1.0)
"""I-JEPA's target blocks: number, fraction of the image, height / width; and the context block's fraction of the image."""


class JointEmbedding(Objective):
    takes: ClassVar[tuple[str, ...]] = ("tokens", "patches", "frames", "series", "steps")
    causal: ClassVar[bool] = False
    teaches: ClassVar[bool] = True
    loss_unit: ClassVar[str] = "smooth L1 error per feature"
    separable: ClassVar[bool] = True

    masking: Literal["drop", "hide"] = "hide"
    """`drop` blocks of an image (I-JEPA), or mask spans of any sequence with `hide` (data2vec)."""
    shown: float = Field(default=0.4, gt=0, lt=1)
    """For `drop`: fraction of the units in the context."""
    ratio: float = Field(default=0.5, gt=0, lt=1)
    """For `hide`: fraction of the units that is masked."""
    span: PositiveInt = 4
    """For `hide`: length of a masked span, in units."""
    layers: PositiveInt = 8
    """For `hide`: number of the teacher's last layers whose mean is the target (all, if it has fewer)."""
    start_momentum: float = Field(default=0.996, ge=0, le=1)
    """The teacher's momentum per step at the start of the run; it rises to 1. Use less for fewer steps."""

    @property
    def masks(self) -> bool:  # type: ignore[override]
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
            units = units[:-1]  # the last unit is the next sample's first
        if self.predicts:
            assert units.shape.grid is not None
            visible, loss_mask = context_and_targets(units.shape.grid, round(self.shown * len(units)), rng)
            return Plan(units, (Target("latent", None, loss_mask),), visible=visible)
        masked = spans(len(units), self.ratio, self.span, rng)
        return Plan(units, (Target("latent", None, masked),), masked)

    def loss(self, prediction: Tensor, target: Tensor, loss_mask: Tensor) -> tuple[Tensor, Tensor]:
        from torch.nn import functional as F

        errors = F.smooth_l1_loss(prediction.float(), target.float(), reduction="none").mean(-1)
        return (errors * loss_mask).sum(), loss_mask.sum()

    def teacher_targets(self, states: Sequence[Tensor]) -> Tensor:
        from torch.nn import functional as F

        layers = states[-1:] if self.predicts else states[-self.layers :]
        total = F.layer_norm(layers[0].float(), layers[0].shape[-1:])
        for state in layers[1:]:
            total = total + F.layer_norm(state.float(), state.shape[-1:])
        return total / len(layers)

    def momentum(self, progress: float) -> float:
        return self.start_momentum + (1 - self.start_momentum) * progress


def context_and_targets(grid: tuple[int, int], shown: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """(the `shown` visible units of the context, ascending; loss mask of the target blocks, [T] bool)."""
    targets = np.zeros(grid, bool)
    for _ in range(BLOCKS):
        targets[_block(grid, SCALE, ASPECT, rng)] = True
    context = np.zeros(grid, bool)
    context[_block(grid, CONTEXT_SCALE, (1.0, 1.0), rng)] = True
    # Take units of the context block first, then others outside the targets; give up targets if these are too few.
    order = np.argsort((2 * targets + ~context).flatten() + rng.random(targets.size) * 0.5)
    visible = np.sort(order[: max(1, min(shown, targets.size - 1))])
    loss_mask = targets.flatten()
    loss_mask[visible] = False
    if not loss_mask.any():
        loss_mask[order[-1]] = True
    return visible, loss_mask


def _block(
    grid: tuple[int, int], scale: tuple[float, float], aspect: tuple[float, float], rng: np.random.Generator
) -> tuple[slice, slice]:
    """Draw a block of the grid: (rows, columns). `scale` is its fraction of the area, `aspect` its height / width."""
    rows, columns = grid
    area, shape = rng.uniform(*scale) * rows * columns, rng.uniform(*aspect)
    height = min(rows, max(1, round((area * shape) ** 0.5)))
    width = min(columns, max(1, round((area / shape) ** 0.5)))
    top, left = rng.integers(0, rows - height + 1), rng.integers(0, columns - width + 1)
    return slice(top, top + height), slice(left, left + width)
