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
    watched = activations.encodings(trainer, micro_batches, FEATURES) if activations else trainer.encodings(micro_batches)
    for position, batch, hidden in watched:
        parts = _of_sources(trainer, batch, hidden, by_source.at(position)) if by_source else []
        asked = [(batch, hidden), *(part for _, part in parts if part)]
        first = position * len(hidden) < FEATURES
        losses_of = activations.losses_of(trainer) if activations and first else trainer.losses_of
        whole, *split = [_facts(*found) for found in losses_of(asked)]
        facts[0] += whole
        for source, part in parts:
            facts[1 + source] += split.pop(0) if part else whole
        if first:
            features[position] = pooled(batch, trainer.model.of_units(hidden)).float()
        if looks:
            looks.take(position, batch, hidden)
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


def _of_sources(
    trainer: Trainer, batch: Batch, hidden: Tensor, sources: Sequence[tuple[int, int]]
) -> list[tuple[int, tuple[Batch, Tensor] | None]]:
    """Each source in a micro-batch, with its samples and their hidden states, or None for the whole micro-batch."""
    if len(sources) == 1:
        return [(sources[0][0], None)]
    if trainer.objective.couples:
        return []
    found: list[tuple[int, tuple[Batch, Tensor] | None]] = []
    start = 0
    for source, samples in sources:
        rows = slice(start, start + samples)
        found.append((source, (batch.rows(rows), hidden[rows])))
        start += samples
    return found
