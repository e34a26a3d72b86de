"""A look at what a model writes: fixed prompts, continued by the likeliest token each time, so that texts can be compared."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from foundray.contract import Plan, Units, UnitShape
from foundray.data.stream.batch import packed
from foundray.data.tokenizers.encoding import encode_one
from foundray.data.tokenizers.tokenizer import Tokenizer
from foundray.model.model import Batch, Model

if TYPE_CHECKING:
    from foundray.training.step.trainer import Trainer

PROMPT_TOKENS = 16
"""Tokens of held-out data that make a prompt, if the spec has none."""


@torch.no_grad()
def continued(trainer: Trainer, tokenizer: Tokenizer, prompt: str | None, tokens: int) -> str:
    """Continue a prompt by up to `tokens` tokens, the likeliest each time; ends when the model ends the text.

    All workers of a team call this, each with a prompt of its own or, to gather for the others, without one.
    """
    context, classes = trainer.spec.model.context, tokenizer.vocabulary
    ids = [] if prompt is None else [tokenizer.document_id, *encode_one(tokenizer, prompt).tolist()]
    start = len(ids)
    end = start + tokens if ids else 0
    while trainer.any_of_team(len(ids) < end):
        batch = _batch_of(ids[-context:], classes, trainer.device) if len(ids) < end else None
        with trainer.answering(batch) as hidden:
            if hidden is None:
                continue
            chosen = int(_after_last(trainer.model, hidden, classes).argmax())
        if chosen == tokenizer.document_id:
            end = 0
        else:
            ids.append(chosen)
    return tokenizer.decode(ids[start:])


def next_logits(model: Model, ids: Sequence[int], classes: int) -> Tensor:
    """Logits [classes] after the last of the ids, of a model whose only head predicts what comes next."""
    device = next(model.parameters()).device
    return _after_last(model, model.encode(_batch_of(ids, classes, device)), classes)


def _batch_of(ids: Sequence[int], classes: int, device: torch.device) -> Batch:
    shown = Plan(Units(np.array(ids, np.int64), None, UnitShape(classes=classes)), ())
    return Batch.load(packed([shown]), device)


def _after_last(model: Model, hidden: Tensor, classes: int) -> Tensor:
    (head,) = model.heads
    answer: Tensor = model.get_submodule(head)(model.of_units(hidden)[:, -1])
    return answer[0, :classes]
