"""Configuration shared by Hugging Face's descendants of Llama, such as Granite and EuroBERT."""

from __future__ import annotations

from typing import Any

from foundray.exports.flags import check_flags
from foundray.exports.forms import NoStockClass
from foundray.model.backbone import NORM_EPS
from foundray.model.model import Model
from foundray.spec import Spec


def configuration(model: Model, spec: Spec, stock_class: str, padding: int | None) -> dict[str, Any]:
    """Fields of the stock class's configuration; of the special tokens, only `padding`.

    The padding token's row of the embeddings does not learn. Raises NoStockClass if the class lacks a part.
    """
    shape = spec.model
    check_flags(stock_class, shape, norm="rms", act="swiglu")
    if shape.rope_theta is None:
        raise NoStockClass(f"{stock_class} has rotary positions, and the run has rope_theta: null")
    if list(model.heads) != ["lm_head"] or not model.model.reads_ids:
        raise NoStockClass(f"{stock_class} has one head, lm_head, over tokens, and the run's heads differ")
    return {
        "vocab_size": model.model.embed_tokens.num_embeddings,
        "hidden_size": shape.width,
        "intermediate_size": shape.hidden_width,
        "num_hidden_layers": shape.depth,
        "num_attention_heads": shape.heads,
        "num_key_value_heads": shape.heads,
        "max_position_embeddings": shape.context,
        "rms_norm_eps": NORM_EPS,
        "rope_parameters": {"rope_type": "default", "rope_theta": shape.rope_theta},
        "attention_bias": shape.bias,
        "mlp_bias": shape.bias,
        "tie_word_embeddings": False,
        "pad_token_id": padding,
        "bos_token_id": None,
        "eos_token_id": None,
    }
