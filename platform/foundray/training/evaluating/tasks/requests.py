"""Texts as token ids, and which of them are asked for.

As `lm-eval` cuts them, so that both ask the same: spaces at the end of a context belong to what follows; a context's tokens are
those that it has alone; and a text that does not fit is cut into windows, each as full as the context allows.
Differs: every text is opened by the document token, as in training (lm-eval does so with `add_bos_token=True`).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from foundray.data.tokenizers.encoding import encode_one
from foundray.data.tokenizers.tokenizer import Tokenizer
from foundray.errors import InputError
from foundray.training.evaluating.tasks.items import Candidate, Item


@dataclass(frozen=True)
class Request:
    """Ids of which the last `asked` are predicted, each from those before it."""

    ids: np.ndarray
    """[T + 1] int64, at most the model's context and one more."""
    asked: int


def requests_of(item: Item, tokenizer: Tokenizer, context: int) -> list[list[Request]]:
    """Requests for each candidate of an item; the candidate's log-likelihood is their sum. Raises InputError."""
    if item.kind == "text":
        return [list(_windows(_whole(item.candidates[0], tokenizer), context))]
    return [[_after(candidate, tokenizer, context)] for candidate in item.candidates]


def _whole(candidate: Candidate, tokenizer: Tokenizer) -> np.ndarray:
    return _opened(tokenizer, encode_one(tokenizer, candidate.text))


def _after(candidate: Candidate, tokenizer: Tokenizer, context: int) -> Request:
    """A request for a text after its context, cut at the left to the model's context."""
    before = candidate.context.rstrip()
    whole = encode_one(tokenizer, candidate.context + candidate.text)
    start = len(encode_one(tokenizer, before)) if before else 0
    asked = len(whole) - start
    if asked < 1:  # fewer than none if tokens merge across the context's end
        raise InputError(f"{candidate.said[:40]!r} has no tokens of its own after its context; it cannot be scored")
    if asked > context:
        raise InputError(
            f"{candidate.said[:40]!r} has {asked:,} tokens, and the model sees {context:,} at once; it cannot be scored"
        )
    return Request(_opened(tokenizer, whole)[-(context + 1) :], asked)


def _windows(ids: np.ndarray, context: int) -> Iterator[Request]:
    """Windows over a document that ask for every token but the first once."""
    done = min(len(ids) - 1, context)
    if done:
        yield Request(ids[: done + 1], done)
    while done < len(ids) - 1:
        end = min(done + context, len(ids) - 1)
        yield Request(ids[max(0, end - context) : end + 1], end - done)
        done = end


def _opened(tokenizer: Tokenizer, ids: Sequence[int] | np.ndarray) -> np.ndarray:
    return np.concatenate([[tokenizer.document_id], ids]).astype(np.int64)
