"""A run's tokenizer as Hugging Face's: the same ids, with a name for every special one."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from tokenizers import Tokenizer as Engine

from foundray.errors import InputError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast


def wrapped(
    text: str, document_id: int, vocabulary: int, extra: Sequence[str], roles: Mapping[str, str], context: int, left: bool
) -> PreTrainedTokenizerFast:
    """From a run's tokenizer.json, whose ids lie below `vocabulary`; `extra` tokens and those of `roles` come after.

    The document token opens a text, ends it and pads; a text is opened as in training. Batches are padded on the `left`
    where the model goes on with them. Raises InputError for ids that have gaps, where a name must come after them.
    """
    from transformers import PreTrainedTokenizerFast

    document = str(Engine.from_str(text).id_to_token(document_id))
    engine = Engine.from_str(_opened(text, document, document_id))
    names = [*extra, *roles.values()]
    engine.add_special_tokens(names)
    if [engine.token_to_id(name) for name in names] != [*range(vocabulary, vocabulary + len(names))]:
        raise InputError(
            f"the tokenizer's ids have gaps, or it has {names[0]} already, so the objective's {len(names)} tokens cannot be "
            f"given the ids from {vocabulary} on"
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
    """The tokenizer.json, with the document token before every text; as JSON, since its template takes any name."""
    fields: dict[str, Any] = json.loads(text)

    def piece(sequence: str, kind: int) -> list[dict[str, Any]]:
        opener = {"SpecialToken": {"id": document, "type_id": kind}}
        return [opener, {"Sequence": {"id": sequence, "type_id": kind}}]

    fields["post_processor"] = {
        "type": "TemplateProcessing",
        "single": piece("A", 0),
        "pair": piece("A", 0) + piece("B", 1),
        "special_tokens": {document: {"id": document, "ids": [document_id], "tokens": [document]}},
    }
    return json.dumps(fields, ensure_ascii=False)
