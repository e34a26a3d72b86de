"""How likely a model finds the ids that are asked for, in batches that follow from the requests alone."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from foundray.contract import Plan, Units, UnitShape
from foundray.data.stream.batch import packed
from foundray.model.model import Batch, Model
from foundray.training.evaluating.tasks.requests import Request

TOKENS_PER_BATCH = 2**13
"""Padded tokens that a model scores at once."""


@dataclass(frozen=True)
class Likelihood:
    """The answer to a request."""

    log_prob: float
    """Summed natural logarithm of the probabilities of the ids asked for."""
    greedy: bool
    """Whether each of them is the likeliest."""


Answering = Callable[[Batch | None], AbstractContextManager[Tensor | None]]
"""The hidden states of a batch; inside, the heads may be used. As `Trainer.answering`."""
Scorer = Callable[[Sequence[Request]], list[Likelihood]]
"""Answers requests, in their order."""


def batches(requests: Sequence[Request]) -> list[list[int]]:
    """Indices of the requests of each batch, longest first: alike in length, so that little is padded."""
    order = sorted(range(len(requests)), key=lambda index: (-len(requests[index].ids), index))
    found: list[list[int]] = []
    for index in order:
        longest = len(requests[found[-1][0]].ids) if found else 0
        if not found or longest * (len(found[-1]) + 1) > TOKENS_PER_BATCH:
            found.append([])
        found[-1].append(index)
    return found


@torch.no_grad()
def score_batch(model: Model, requests: Sequence[Request], answering: Answering | None = None) -> list[Likelihood]:
    """Score the requests of one batch by a model whose only head predicts the next id.

    `answering` computes hidden states in place of the model itself. Without requests it is called without a batch: so a worker
    gathers for the others of its team.
    """
    (head,) = model.heads
    batch = _batch_of(model, requests)
    with answering(batch) if answering else nullcontext(model.encode(batch) if batch else None) as hidden:
        if batch is None or hidden is None:
            return []
        asked = torch.zeros_like(batch.valid)
        for row, request in enumerate(requests):
            asked[row, len(request.ids) - 1 - request.asked : len(request.ids) - 1] = True
        logits: Tensor = model.get_submodule(head)(model.of_units(hidden)[asked])
    targets = torch.from_numpy(np.concatenate([request.ids[-request.asked :] for request in requests])).to(logits.device)
    log_probs = logits.float().log_softmax(-1)
    chosen = log_probs.gather(1, targets[:, None])[:, 0].double().cpu()
    greedy = (log_probs.argmax(-1) == targets).cpu()
    counts = [request.asked for request in requests]
    return [
        Likelihood(float(part.sum()), bool(right.all()))
        for part, right in zip(chosen.split(counts), greedy.split(counts), strict=True)
    ]


def _batch_of(model: Model, requests: Sequence[Request]) -> Batch | None:
    """The ids that the model sees, of all requests; None without any."""
    if not requests:
        return None
    (classes,) = model.heads.values()
    shape = UnitShape(classes=classes)  # type: ignore[arg-type]
    plans = [Plan(Units(request.ids[:-1], None, shape), ()) for request in requests]
    return Batch.load(packed(plans), next(model.parameters()).device)


def by_model(model: Model) -> Scorer:
    """Score by a model, batch after batch, in this process."""

    def score(requests: Sequence[Request]) -> list[Likelihood]:
        found: dict[int, Likelihood] = {}
        for indices in batches(requests):
            found |= dict(zip(indices, score_batch(model, [requests[index] for index in indices]), strict=True))
        return [found[index] for index in range(len(requests))]

    return score


def by_frequency(counts: np.ndarray) -> Scorer:
    """Score by how often each id occurs, whatever comes before it; `counts` [classes], to each of which one is added."""
    log_probs = np.log((counts + 1) / (counts + 1).sum())
    likeliest = int(log_probs.argmax())

    def score(requests: Sequence[Request]) -> list[Likelihood]:
        asked = [request.ids[-request.asked :] for request in requests]
        return [Likelihood(float(log_probs[ids].sum()), bool((ids == likeliest).all())) for ids in asked]

    return score
