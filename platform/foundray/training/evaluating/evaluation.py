"""The evaluation of a model on held-out micro-batches, shared between a group's workers like a step."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from foundray.model.model import Batch, pooled
from foundray.training.evaluating.activations import Activations
from foundray.training.evaluating.collapse import effective_rank, spread
from foundray.training.evaluating.looks import Looks
from foundray.training.step.loss_sum import WORDS, fits, nats, words
from foundray.training.step.outcome import Evaluation, SourceLoss
from foundray.training.step.trainer import MicroBatches, Trainer

FEATURES = 512
"""Samples whose features, and on which layers' activity, are measured."""
SUMS = WORDS + 2
"""Integers that workers sum per loss: the words of the loss, targets, and micro-batches whose loss is not finite."""


@dataclass(frozen=True)
class SourceRows:
    """Which samples of an evaluation's micro-batches are of which source."""

    at: Callable[[int], Sequence[tuple[int, int]]]
    """(source, samples) of each source in the micro-batch at a position, in the order of the samples."""
    count: int
    """Number of sources."""


@torch.no_grad()
def evaluate(
    trainer: Trainer,
    micro_batches: MicroBatches,
    by_source: SourceRows | None = None,
    activations: Activations | None = None,
    looks: Looks | None = None,
) -> Evaluation:
    """Evaluate all workers' micro-batches. The loss has the same bits for any number of workers; it is infinite if one is.

    With `by_source`, the result also has the loss on each source's samples. A micro-batch of one source costs nothing more; one
    of several sources is answered once more for each. If samples are coupled, such micro-batches count for no source.
    `activations` watches the model on the first samples, and `looks` takes the predictions of single ones.
    """
    facts = torch.zeros((1 + (by_source.count if by_source else 0), SUMS), dtype=torch.int64, device=trainer.device)
    features: dict[int, Tensor] = {}
    for one in trainer.rounds_of(micro_batches):
        # Compute. In a team, a worker without a micro-batch makes all of these calls, too.
        position, payload = one or (0, None)
        batch = trainer.opened(payload, 0, position) if payload else None
        first = batch is not None and position * len(batch.x) < FEATURES
        watched = activations if first else None
        hidden = watched.encode(trainer, batch) if watched and batch else trainer.encode(batch)
        parts = _parts(trainer, batch, hidden, by_source.at(position) if by_source and batch else ())
        losses_of = watched.losses_of(trainer) if watched else trainer.losses_of
        found = losses_of([part for _, part in parts])
        if looks:
            looks.take(position, batch, hidden)
        # Add up.
        for (counted, _), (loss, tokens) in zip(parts, found, strict=True):
            facts[counted] += _facts(loss, tokens)
        if first and batch and hidden is not None:
            features[position] = pooled(batch, trainer.model.of_units(hidden)).float()
    losses = [_mean(row) for row in trainer.group.sum(facts.view(-1)).view(facts.shape).tolist()]
    # The features of the same samples on every worker, in their order.
    rows = trainer.group.share_rows(features)[:FEATURES].cpu().numpy()
    sources = tuple(SourceLoss(source, mean, tokens) for source, (mean, tokens, _) in enumerate(losses[1:]) if tokens)
    return Evaluation(*losses[0], spread(rows), effective_rank(rows), sources)


def _facts(loss: Tensor, tokens: Tensor) -> Tensor:
    """A loss and its number of targets as integers [SUMS], to be summed."""
    finite = fits(loss)
    return torch.cat([words(loss.where(finite, 0.0)), torch.stack([tokens, ~finite]).to(torch.int64)])


def _mean(row: Sequence[int]) -> tuple[float, int, int]:
    """Mean loss, targets, and micro-batches whose loss is not finite, of summed integers."""
    *loss_words, tokens, lost = row
    return nats(loss_words) / tokens if tokens and not lost else math.inf, tokens, lost


def _parts(
    trainer: Trainer, batch: Batch | None, hidden: Tensor | None, sources: Sequence[tuple[int, int]]
) -> list[tuple[list[int], tuple[Batch, Tensor]]]:
    """A micro-batch, and its samples of each of several sources, with their hidden states; none without a batch.

    Each comes with the rows of the sums to which its loss is added: 0 for the whole, 1 + i for source i.
    """
    if batch is None or hidden is None:
        return []
    if len(sources) == 1:
        return [([0, 1 + sources[0][0]], (batch, hidden))]
    found = [([0], (batch, hidden))]
    start = 0
    for source, samples in () if trainer.objective.couples else sources:
        rows = slice(start, start + samples)
        found.append(([1 + source], (batch.rows(rows), hidden[rows])))
        start += samples
    return found
