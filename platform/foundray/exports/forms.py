"""The forms that other libraries can load, each a module of this package named by an objective's `becomes`.

Such a module has `build`, which turns our model into the stock class's, and describes its use: see `Form`. The stock class
itself writes the files.
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
    """No stock class computes what this model does, with the reason; it is exported in Foundray's own form."""


class Form(Protocol):
    """Contents of a form's module."""

    CONTINUES: bool
    """Whether the model continues a text, so that batches are padded on the left."""
    USE: str
    """Python lines that load and use the model; `FOLDER` stands for its folder."""
    SPECIAL_TOKENS: Mapping[str, str]
    """Tokens that the form adds after the objective's, by role: `{"mask_token": "<|mask|>"}`."""

    def build(self, model: Model, spec: Spec, padding: int | None = None) -> Any:
        """A `transformers.PreTrainedModel` with the same outputs as ours; `padding` is the id of the token that pads batches.

        Raises NoStockClass.
        """

    def tried(self, spec: Spec) -> tuple[str, ...]:
        """Versions of transformers with which such an export was loaded and gave the same numbers, the oldest first."""

    def pipeline(self, spec: Spec) -> str | None:
        """Name of the `transformers.pipeline` that runs with such a model, which is its tag on the hub; None if none does."""

    def processor(self, spec: Spec) -> Any:
        """A processor from raw values to the model's input, with `save_pretrained`; None if there is none or a tokenizer does
        its work."""


def form_of(spec: Spec) -> Form:
    """The form of the spec's objective. Raises NoStockClass if it has none."""
    word = spec.objective.build().becomes
    if word not in WORDS:
        raise NoStockClass(f"no stock class learns by {spec.objective.kind}")
    return cast(Form, import_module(f"foundray.exports.{word}"))
