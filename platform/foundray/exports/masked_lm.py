"""Encoders of tokens: `EuroBertForMaskedLM`, Llama's layers with bidirectional attention.

CompleteP's multipliers are folded into the weights. The learned mask vector becomes the embedding of an extra token, the last
one, which the model never predicts: its row of the head is zeros.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from foundray.exports.fold import folded
from foundray.exports.forms import NoStockClass
from foundray.exports.llama import configuration
from foundray.exports.stock import model_with
from foundray.model.model import Model
from foundray.spec import Spec

if TYPE_CHECKING:
    from transformers import PreTrainedModel

CONTINUES = False
TRIED = ("5.19.0", "5.20.2", "5.23.0", "5.24.0")
SPECIAL_TOKENS = {"mask_token": "<|mask|>"}
USE = """\
from transformers import AutoModelForMaskedLM, AutoTokenizer

tokenizer, model = AutoTokenizer.from_pretrained("FOLDER"), AutoModelForMaskedLM.from_pretrained("FOLDER")
ids = tokenizer("<|mask|>", return_tensors="pt")
print(tokenizer.decode(model(**ids).logits[0].argmax(-1), skip_special_tokens=True))
"""


def build(model: Model, spec: Spec, padding: int | None = None) -> PreTrainedModel:
    """Build the stock model, with the same outputs at every position and one more class. Raises NoStockClass."""
    fields = configuration(model, spec, "EuroBertForMaskedLM", padding)
    state = folded(model)
    if (vector := state.pop("model.mask", None)) is None:
        raise NoStockClass("EuroBertForMaskedLM has a mask token, and the run has no mask vector")
    import transformers

    mask = fields["vocab_size"]
    config = transformers.EuroBertConfig(**fields | {"vocab_size": mask + 1}, mask_token_id=mask)
    state["model.embed_tokens.weight"] = torch.cat([state["model.embed_tokens.weight"], vector[None]])
    state["lm_head.weight"] = torch.cat([state["lm_head.weight"], torch.zeros(1, spec.model.width)])
    if spec.model.bias:  # then the stock head has a bias too
        state["lm_head.bias"] = torch.zeros(mask + 1)
    return model_with(transformers.EuroBertForMaskedLM, config, state)


def tried(spec: Spec) -> tuple[str, ...]:
    """Versions of transformers that gave the same numbers."""
    return TRIED


def pipeline(spec: Spec) -> str:
    """Every such model runs in it."""
    return "fill-mask"


def processor(spec: Spec) -> None:
    """None: a tokenizer does its work."""
