"""A tokenizer as llama.cpp has it in a GGUF file: byte-level BPE that splits texts in a way it has a name for, or characters.

Texts become the same tokens, except beside letters that only the newer one of the two libraries' Unicode tables knows, and for
unknown characters that follow each other: they become one token.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from tokenizers import Tokenizer as Engine

from foundray.data.prepare.recipe import rewrites_of
from foundray.data.tokenizers.checks import EACH_CHARACTER, Anatomy
from foundray.data.tokenizers.tokenizer import DOCUMENT
from foundray.errors import InputError
from foundray.runs.run import Run
from foundray.spec import Spec

WORDS_OF_GPT2 = {"type": "ByteLevel", "add_prefix_space": False, "use_regex": True}
NO_WORDS = WORDS_OF_GPT2 | {"use_regex": False}
LLAMA3 = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
"""How Llama 3 splits texts."""
SPLITS = {
    "gpt-2": ([WORDS_OF_GPT2], False),
    "smollm": ([{"type": "Digits", "individual_digits": True}, WORDS_OF_GPT2], False),
    "llama-bpe": (
        [{"type": "Split", "pattern": {"Regex": LLAMA3}, "behavior": "Isolated", "invert": False}, NO_WORDS],
        True,
    ),
}
"""llama.cpp's names of pre-tokenizers: their parts in tokenizer.json, and whether words of the vocabulary need no merges."""
BYTES = "gpt-2"
"""The name for a vocabulary without merges, which splits nothing: any does."""
NEVER_MERGED = ["ÿ þ"]
"""The merge that stands for none, since llama.cpp wants one: of bytes that UTF-8 never contains."""
TRIED = "build 11549"
"""Version of llama.cpp that gave the same tokens and probabilities."""
SPACE = "▁"
"""llama.cpp's letter for a space in vocabularies of characters."""
NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED = 1, 2, 3, 4, 5
"""llama.cpp's types of tokens."""


def refused(why: str) -> InputError:
    """The error of an export that llama.cpp could not use."""
    return InputError(f"--gguf writes for llama.cpp: {why}")


def check(run: Run, spec: Spec) -> None:
    """Refuse a run whose objective or tokenizer llama.cpp lacks, before its weights are read. Raises InputError."""
    if spec.objective.build().becomes != "causal_lm":
        raise refused(f"it runs models that continue texts, and {spec.objective.kind} makes none")
    if rewrites_of(run.manifest()["recipe"], spec):
        raise refused("it would not rewrite texts as the reader of this run's data does")
    Vocabulary.of(Engine.from_str((run.folder / "tokenizer.json").read_text()))


@dataclass(frozen=True)
class Vocabulary:
    tokens: list[str]
    """By id. Ids without a token have names that no text becomes."""
    types: list[int]
    """By id: NORMAL, UNKNOWN, CONTROL, USER_DEFINED or UNUSED."""
    merges: list[str]
    """Pairs that merge, the first ones first, with a space between them; none for characters."""
    splits: str | None
    """llama.cpp's name of the pre-tokenizer; None for characters."""
    unknown: int | None
    """Id of the token for unknown characters."""

    @staticmethod
    def of(engine: Engine) -> Vocabulary:
        """The vocabulary of a tokenizer.json. Raises InputError if llama.cpp would make other tokens of a text, or none."""
        fields: dict[str, Any] = json.loads(engine.to_str())
        model, parts = fields["model"], Anatomy(engine)
        if fault := next(_faults(fields, parts), None):
            raise refused(f"it has no tokenizer like this one: {fault}; kinds bpe, bytes and char of data.tokenizer suit it")
        added = {token["id"]: token for token in fields["added_tokens"]}
        names = {number: name for name, number in parts.ids.items()}
        ids, characters = range(max(names) + 1), _is_of_characters(parts)
        kinds = {number: CONTROL if token["special"] else USER_DEFINED for number, token in added.items()}
        if characters and parts.unknown_id is not None:
            names = {number: SPACE if name == " " else name for number, name in names.items()}
            kinds[parts.unknown_id] = UNKNOWN
        merges = [] if characters else model["merges"] or NEVER_MERGED
        return Vocabulary(
            tokens=[names.get(number, f"[UNUSED{number}]") for number in ids],
            types=[kinds.get(number, NORMAL if number in names else UNUSED) for number in ids],
            merges=[pair if isinstance(pair, str) else " ".join(pair) for pair in merges],
            splits=None if characters else _splits(fields, parts),
            unknown=parts.unknown_id,
        )


def _faults(fields: dict[str, Any], parts: Anatomy) -> Iterator[str]:
    """What llama.cpp does otherwise, a clause each."""
    model = fields["model"]
    if parts.normalizers:
        yield f"its normalizer ({parts.normalizers[0]['type']}) changes a text first"
    if _is_of_characters(parts):
        if SPACE in parts.ids:
            yield f"its token {SPACE!r} is what llama.cpp writes for a space"
        if "\0" in parts.ids:
            yield "its token '\\x00' ends a text in llama.cpp"
        return
    if parts.kind != "BPE":
        yield f"its model is {parts.kind}"
        return
    if _splits(fields, parts) is None:
        yield "its pre-tokenizer splits texts in a way that has no name in llama.cpp"
    if not parts.complete:
        yield "it has no token for some bytes"
    for option in ("byte_fallback", "continuing_subword_prefix", "end_of_word_suffix", "dropout"):
        if model.get(option):
            yield f"its model has {option}"
    for token in fields["added_tokens"]:
        if not token["special"] and (token["lstrip"] or token["rstrip"] or token["single_word"]):
            yield f"its token {token['content']!r} takes the space beside it, or stands only for whole words"


def _is_of_characters(parts: Anatomy) -> bool:
    """Whether each token that text can become is one character, as in Foundray's own `char` tokenizers."""
    own = parts.of_model.keys() - {parts.unknown, *parts.special, DOCUMENT}
    if parts.unknown is None or parts.kind != "WordLevel":
        return False
    return parts.pre_tokenizers == [EACH_CHARACTER] and all(len(name) == 1 for name in own)


def _splits(fields: dict[str, Any], parts: Anatomy) -> str | None:
    """llama.cpp's name of the pre-tokenizer; None if it has none."""
    described = [{key: value for key, value in part.items() if key != "trim_offsets"} for part in parts.pre_tokenizers]
    for name, (those, whole_words) in SPLITS.items():
        if described == those and whole_words == bool(fields["model"].get("ignore_merges")):
            return name
    return BYTES if described == [NO_WORDS] and not fields["model"]["merges"] else None
