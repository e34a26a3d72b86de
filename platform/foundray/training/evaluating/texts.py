"""A look at what a model writes: fixed prompts, continued by the likeliest token each time, so that texts can be compared."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext

import numpy as np
import torch

from foundray.contract import Plan, Units, UnitShape
from foundray.data.stream.batch import packed
from foundray.data.tokenizers.encoding import encode_one
from foundray.data.tokenizers.tokenizer import Tokenizer
from foundray.model.model import Batch, Model

PROMPT_TOKENS = 16
"""Tokens of held-out data that make a prompt, if the spec has none."""


@torch.no_grad()
def continued(
    model: Model,
    tokenizer: Tokenizer,
    prompt: str,
    tokens: int,
    context: int,
    precision: Callable[[], AbstractContextManager[object]] = nullcontext,
) -> str:
    """Continue a prompt by up to `tokens` tokens, the likeliest each time; ends when the model ends the text."""
    ids = [tokenizer.document_id, *encode_one(tokenizer, prompt).tolist()]
    start = len(ids)
    while len(ids) < start + tokens:
        with precision():
            logits = next_logits(model, ids[-context:], tokenizer.vocabulary)
        if (chosen := int(logits.argmax())) == tokenizer.document_id:
            break
        ids.append(chosen)
    return tokenizer.decode(ids[start:])


def next_logits(model: Model, ids: list[int], classes: int) -> torch.Tensor:
    """Logits [classes] after the last of the ids, of a model whose only head predicts what comes next."""
    (head,) = model.heads
    device = next(model.parameters()).device
    shown = Plan(Units(np.array(ids, np.int64), None, UnitShape(classes=classes)), ())
    hidden = model.of_units(model.encode(Batch.load(packed([shown]), device)))
    answer: torch.Tensor = model.get_submodule(head)(hidden[:, -1])
    return answer[0, :classes]
