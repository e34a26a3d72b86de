"""Decoders: `LlamaForCausalLM`, or `GraniteForCausalLM`, which has CompleteP's multipliers, if these are not 1.

The weights are exported unchanged: their names and layout are Llama's.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from foundray.exports.llama import configuration
from foundray.exports.stock import model_with
from foundray.model.model import Model
from foundray.spec import Spec

if TYPE_CHECKING:
    from transformers import PreTrainedModel

CONTINUES = True
TRIED = ("4.45.2", "4.57.6", "5.0.0", "5.4.0", "5.19.0", "5.20.2", "5.23.0", "5.24.0")
SPECIAL_TOKENS: dict[str, str] = {}
USE = """\
from transformers import AutoModelForCausalLM, AutoTokenizer

tokenizer, model = AutoTokenizer.from_pretrained("FOLDER"), AutoModelForCausalLM.from_pretrained("FOLDER")
ids = model.generate(**tokenizer("", return_tensors="pt"), max_new_tokens=20)
print(tokenizer.decode(ids[0], skip_special_tokens=True))
"""


def build(model: Model, spec: Spec, padding: int | None = None) -> PreTrainedModel:
    """Build the stock model, with the same outputs at every position. Raises NoStockClass."""
    fields = configuration(model, spec, "LlamaForCausalLM", padding)
    import transformers

    shape = spec.model
    if shape.width_mult == shape.depth_mult == 1:
        return model_with(transformers.LlamaForCausalLM, transformers.LlamaConfig(**fields), model.state_dict())
    multipliers = {
        "embedding_multiplier": 1.0,
        "attention_multiplier": (shape.width // shape.heads) ** -0.5,
        "residual_multiplier": 1 / shape.depth_mult,
        "logits_scaling": shape.width_mult,
    }
    config = transformers.GraniteConfig(**fields, **multipliers)
    return model_with(transformers.GraniteForCausalLM, config, model.state_dict())


def tried(spec: Spec) -> tuple[str, ...]:
    """Versions of transformers that gave the same numbers."""
    return TRIED


def pipeline(spec: Spec) -> str:
    """Every such model runs in it."""
    return "text-generation"


def processor(spec: Spec) -> None:
    """None: a tokenizer does its work."""
