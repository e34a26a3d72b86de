"""The loss of a micro-batch, from what enters the heads: of all units at once, or of one chunk of units after another."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from foundray.contract import Objective
from foundray.model.model import Batch, Model


def summed_loss(
    objective: Objective, batch: Batch, answers: dict[str, Tensor], teacher_targets: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Summed loss of the heads' answers, and its count."""
    losses = []
    for head, (target, loss_mask) in batch.targets.items():
        answer = answers[head]
        if objective.couples:
            target, loss_mask = answer, loss_mask[:, :1]
        losses.append(objective.loss(answer, _wanted(head, target, teacher_targets), loss_mask))
    return _added(losses)


def chunked_loss(
    model: Model,
    objective: Objective,
    batch: Batch,
    hidden: Tensor,
    teacher_targets: Tensor | None,
    size: int,
    low_precision: Callable[[], AbstractContextManager[object]],
) -> tuple[Tensor, Tensor]:
    """Summed loss of an objective that is `separable`, and its count, from hidden states as the last stage computes them.

    A head answers `size` units at a time, counted over all samples, and answers them again in the backward pass: the answers
    of one chunk are in memory at once. Chunks follow from the micro-batch alone, so the bits do not depend on the worker.
    """

    def of_chunk(head: nn.Module, states: Tensor, target: Tensor, loss_mask: Tensor) -> tuple[Tensor, Tensor]:
        # One context per chunk: the cast weights of a longer one would be shared, and their gradients be summed in bf16.
        with low_precision():
            answer = head(states)
        return objective.loss(answer, target, loss_mask)

    losses = []
    states = _in_a_row(model.of_units(hidden))
    for name, (target, loss_mask) in batch.targets.items():
        wanted = _in_a_row(_wanted(name, target, teacher_targets))
        chunks = zip(*(each.split(size, 1) for each in (states, wanted, _in_a_row(loss_mask))), strict=True)
        for chunk in chunks:
            given = model.get_submodule(name), *chunk
            losses.append(checkpoint(of_chunk, *given, use_reentrant=False) if torch.is_grad_enabled() else of_chunk(*given))
    return _added(losses)


def _wanted(head: str, target: Tensor | None, teacher_targets: Tensor | None) -> Tensor:
    wanted = teacher_targets if target is None else target
    assert wanted is not None, f"{head} has no target"
    return wanted


def _in_a_row(values: Tensor) -> Tensor:
    """The units of all samples as those of one: [B, T, ...] as [1, B * T, ...]."""
    return values.flatten(0, 1)[None]


def _added(losses: list[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    loss, count = (torch.stack(parts).sum() for parts in zip(*losses, strict=True))
    return loss, count
