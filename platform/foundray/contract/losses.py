"""Losses that objectives share. torch is imported when they are called: data workers plan without it."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


def cross_entropy(prediction: Tensor, target: Tensor, loss_mask: Tensor) -> tuple[Tensor, Tensor]:
    """Sum and count of the cross-entropies; see `Objective.loss`."""
    from torch.nn import functional as F

    answers = target.masked_fill(~loss_mask, -100).flatten()
    loss = F.cross_entropy(prediction.flatten(0, 1).float(), answers, ignore_index=-100, reduction="sum")
    return loss, loss_mask.sum()


def squared_error(prediction: Tensor, target: Tensor, loss_mask: Tensor) -> tuple[Tensor, Tensor]:
    """Sum and count of the units' mean squared errors; see `Objective.loss`."""
    errors = (prediction.float() - target).pow(2).mean(-1)
    return (errors * loss_mask).sum(), loss_mask.sum()
