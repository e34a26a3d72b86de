"""A run's tokenizer as Hugging Face's: the same ids, with a name for every special token."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tokenizers import AddedToken, Regex, normalizers
from tokenizers import Tokenizer as Engine

from foundray.data.formats import Rewrites
from foundray.errors import InputError
from foundray.exports.padding import padded

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast


def to_hugging_face(
    text: str,
    document_id: int,
    vocabulary: int,
    extra: Sequence[str],
    roles: Mapping[str, str],
    context: int,
    left: bool,
    extra_stand_for_text: bool = False,
    rewrites: Rewrites = (),
) -> PreTrainedTokenizerFast:
    """Convert a run's tokenizer.json, with ids below `vocabulary`; `extra` tokens and those of `roles` follow.

    The document token opens and ends a text, which is opened as in training, after the `rewrites` of the data's readers. Pad
    batches on the `left` if the model continues them. Tokens that stand for hidden text, those of `roles` always, take the
    space before them if words begin with one. Raises InputError if the ids have gaps and tokens must follow them.
    """
    from transformers import PreTrainedTokenizerFast

    # Add the tokens, and check that they get the ids that the model knows.
    document = str(Engine.from_str(text).id_to_token(document_id))
    text, padding = padded(_opened(text, document, document_id), document)
    engine = Engine.from_str(text)
    takes_space = _words_begin_with_a_space(engine)
    of_extra = [_special(name, takes_space and extra_stand_for_text) for name in extra]
    of_roles = {role: _special(name, takes_space) for role, name in roles.items()}
    engine.add_special_tokens([_special(padding, False), *of_extra, *of_roles.values()])
    names = [*extra, *roles.values()]
    if [engine.token_to_id(name) for name in names] != [*range(vocabulary, vocabulary + len(names))]:
        raise InputError(
            f"the tokenizer's ids have gaps, or it has {names[0]} already, so the objective's {len(names)} tokens cannot get "
            f"the ids from {vocabulary} on"
        )
    # Do to a text what the readers of the data did.
    if rewrites:
        steps = [normalizers.Replace(Regex(pattern), replacement) for pattern, replacement in rewrites]
        engine.normalizer = normalizers.Sequence([*steps, engine.normalizer] if engine.normalizer else steps)
    return PreTrainedTokenizerFast(
        tokenizer_object=engine,
        bos_token=document,
        eos_token=document,
        pad_token=padding,
        unk_token=getattr(engine.model, "unk_token", None),
        extra_special_tokens=of_extra,
        model_max_length=context,
        model_input_names=["input_ids", "attention_mask"],
        clean_up_tokenization_spaces=False,
        padding_side="left" if left else "right",
        **of_roles,
    )


def save(tokenizer: PreTrainedTokenizerFast, folder: Path) -> None:
    """Write the tokenizer's files so that versions 4 and 5 of transformers read them alike."""
    tokenizer.save_pretrained(folder)
    file = folder / "tokenizer_config.json"
    fields = json.loads(file.read_text(encoding="utf-8"))
    fields["tokenizer_class"] = "PreTrainedTokenizerFast"  # version 5 has another name for it, and reads this one
    if extra := fields.pop("extra_special_tokens", None):  # version 4 expects something else there, and version 5 reads this
        fields["additional_special_tokens"] = extra
    file.write_text(json.dumps(fields, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def _special(name: str, takes_space: bool) -> AddedToken:
    return AddedToken(name, special=True, normalized=False, lstrip=takes_space)


def _words_begin_with_a_space(engine: Engine) -> bool:
    """Whether the space before a word belongs to it, as in GPT-2's tokenizer: ` word` is one piece."""
    splits = engine.pre_tokenizer
    return splits is not None and any(span == (1, 3) for _, span in splits.pre_tokenize_str("a b"))


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
