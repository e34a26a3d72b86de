"""A run's tokenizer as Hugging Face's: the same ids, with a name for every special token."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from tokenizers import Tokenizer as Engine

from foundray.errors import InputError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast


def to_hugging_face(
    text: str, document_id: int, vocabulary: int, extra: Sequence[str], roles: Mapping[str, str], context: int, left: bool
) -> PreTrainedTokenizerFast:
    """Convert a run's tokenizer.json, with ids below `vocabulary`; `extra` tokens and those of `roles` follow.

    The document token opens, ends and pads a text, which is opened as in training. Pad batches on the `left` if the model
    continues them. Raises InputError if the ids have gaps and tokens must follow them.
    """
    from transformers import PreTrainedTokenizerFast

    document = str(Engine.from_str(text).id_to_token(document_id))
    engine = Engine.from_str(_opened(text, document, document_id))
    names = [*extra, *roles.values()]
    engine.add_special_tokens(names)
    if [engine.token_to_id(name) for name in names] != [*range(vocabulary, vocabulary + len(names))]:
        raise InputError(
            f"the tokenizer's ids have gaps, or it has {names[0]} already, so the objective's {len(names)} tokens cannot get "
            f"the ids from {vocabulary} on"
        )
    return PreTrainedTokenizerFast(
        tokenizer_object=engine,
        bos_token=document,
        eos_token=document,
        pad_token=document,
        unk_token=getattr(engine.model, "unk_token", None),
        extra_special_tokens=list(extra),
        model_max_length=context,
        model_input_names=["input_ids", "attention_mask"],
        clean_up_tokenization_spaces=False,
        padding_side="left" if left else "right",
        **roles,
    )


def _opened(text: str, document: str, document_id: int) -> str:
    """The tokenizer.json with the document token before every text; edited as JSON, since its template takes any name."""
    fields: dict[str, Any] = json.loads(text)

    def opened(sequence: str, kind: int) -> list[dict[str, Any]]:
        opener = {"SpecialToken": {"id": document, "type_id": kind}}
        return [opener, {"Sequence": {"id": sequence, "type_id": kind}}]

    fields["post_processor"] = {
        "type": "TemplateProcessing",
        "single": opened("A", 0),
        "pair": opened("A", 0) + opened("B", 1),
        "special_tokens": {document: {"id": document, "ids": [document_id], "tokens": [document]}},
    }
    return json.dumps(fields, ensure_ascii=False)
