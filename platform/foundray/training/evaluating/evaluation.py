"""The evaluation of a model on held-out micro-batches, shared between a group's workers like a step."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from foundray.model.model import pooled
from foundray.training.evaluating.collapse import effective_rank, spread
from foundray.training.step.loss_sum import WORDS, fits, nats, words
from foundray.training.step.outcome import Evaluation
from foundray.training.step.trainer import MicroBatches, Trainer

FEATURES = 512
"""Samples whose features are measured."""


@torch.no_grad()
def evaluate(trainer: Trainer, micro_batches: MicroBatches) -> Evaluation:
    """Evaluate all workers' micro-batches. The loss has the same bits for any number of workers; it is infinite if one is."""
    facts = torch.zeros(WORDS + 2, dtype=torch.int64, device=trainer.device)
    features: dict[int, Tensor] = {}
    for position, payload in micro_batches:
        batch, hidden = trainer.encoded(payload, 0, position)
        loss, tokens = trainer.loss_of(batch, hidden)
        finite = fits(loss)
        facts += torch.cat([words(loss.where(finite, 0.0)), torch.stack([tokens, ~finite]).to(torch.int64)])
        if position * len(hidden) < FEATURES:
            features[position] = pooled(batch, trainer.model.of_units(hidden)).float()
    *loss_words, tokens_sum, lost = trainer.group.sum(facts).tolist()
    # The features of the same samples on every worker, in their order.
    rows = trainer.group.share_rows(features)[:FEATURES].cpu().numpy()
    mean = nats(loss_words) / tokens_sum if tokens_sum and not lost else math.inf
    return Evaluation(mean, tokens_sum, lost, spread(rows), effective_rank(rows))
