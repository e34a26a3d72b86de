"""The forms that others' libraries can load, each a module of this package by the word that an objective `becomes`.

Such a module has `build`, which makes the stock class's model of ours, and says what that is for and how it is used:
see `Form`. The stock class itself writes the files.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from typing import Any, Protocol, cast

from foundray.model.model import Model
from foundray.spec import Spec

WORDS = ("causal_lm", "decision_transformer", "mae", "masked_lm")
"""There is a module for each."""


class NoStockClass(Exception):
    """No stock class computes what this model does, and why: it goes out in Foundray's own form."""


class Form(Protocol):
    """What a module of a form holds."""

    PIPELINE: str
    """Hugging Face's word for what such a model does."""
    USE: str
    """The lines of Python that load and use it; `FOLDER` stands for where it lies."""
    SPECIAL_TOKENS: Mapping[str, str]
    """Tokens that the form adds after the objective's, by their role: `{"mask_token": "<|mask|>"}`."""

    def build(self, model: Model, spec: Spec) -> Any:
        """A `transformers.PreTrainedModel` that answers as ours does. Raises NoStockClass."""

    def processor(self, spec: Spec) -> Any:
        """What brings raw values into the form that it takes, with a `save_pretrained`; None where there is no such thing, or
        a tokenizer does it."""


def form_of(spec: Spec) -> Form:
    """Raises NoStockClass where the objective has none."""
    word = spec.objective.build().becomes
    if word not in WORDS:
        raise NoStockClass(f"no stock class learns by {spec.objective.kind}")
    return cast(Form, import_module(f"foundray.exports.{word}"))
