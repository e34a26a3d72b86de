"""Encodes texts with a tokenizer that may fail on some of them; a failure costs only its own text.

A regular expression that needs too many steps (Oniguruma gives up after 10 million per match, about a quarter of a second)
makes the library panic. A panic is not an `Exception`, and prints a line on stderr. Time is not limited: an expression whose
steps grow with the square of a run of letters, such as `a+$`, stays below that count per match and takes a minute for
100,000 letters.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from foundray.data.tokenizers.tokenizer import Tokenizer
from foundray.errors import InputError

REASON = 200
"""Characters kept of the library's message."""


class EngineFailed(Exception):
    """The tokenizers library raised an error or panicked."""


def calling(call: Callable[..., Any], *arguments: Any) -> Any:
    """Call into the tokenizers library. Raises EngineFailed for its errors and panics."""
    try:
        return call(*arguments)
    except BaseException as error:
        if not (isinstance(error, Exception) or type(error).__name__ == "PanicException"):
            raise
        raise EngineFailed(str(error).partition("\n")[0][:REASON]) from None


def encode_one(tokenizer: Tokenizer, text: str) -> np.ndarray:
    """Token ids (int32) of a text, without the opening token. Raises InputError if the tokenizer fails on it."""
    try:
        ids: np.ndarray = calling(tokenizer.encode, [text])[0]
    except EngineFailed as error:
        raise InputError(f"the tokenizer fails on {text[:40]!r}: {error}; give it another text") from None
    return ids


def encode_or_reason(tokenizer: Tokenizer, texts: Sequence[str]) -> list[np.ndarray | str]:
    """Token ids (int32) of each text, without the opening token, or the reason why there are none."""
    try:
        found = calling(tokenizer.encode, texts)
    except EngineFailed as error:
        if len(texts) > 1:
            return [one for text in texts for one in encode_or_reason(tokenizer, [text])]
        return [f"the tokenizer fails on it: {error}"]
    if not found or not (np.concatenate(found) == tokenizer.document_id).any():
        return found
    return [_without_openers(tokenizer, ids) for ids in found]


def _without_openers(tokenizer: Tokenizer, ids: np.ndarray) -> np.ndarray | str:
    """Return the ids, or a reason if they contain the opening token, so that the text would seem to be several documents."""
    if not (ids == tokenizer.document_id).any():
        return ids
    opener = tokenizer.engine.id_to_token(tokenizer.document_id)
    return (
        f"it contains {opener!r}, which the tokenizer turns into the token that opens documents; give the tokenizer.json its "
        "own special token for that, such as <|document|>"
    )
