"""Checks of a tokenizer.json: which characters it would lose, and which tokens text can become."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator
from functools import cache, cached_property
from typing import Any

from tokenizers import Tokenizer as Engine
from tokenizers import pre_tokenizers

MOST_IDS = 2**22
"""Most ids in a vocabulary, each a row of the embedding: four times the largest published one (a million). Judgement."""
MOST_GAPS = 2**16
"""Most ids without a token, unless more ids than that have one. Judgement."""
KEEP_TEXT = ("ByteLevel", "Prepend")
"""Normalizers that lose nothing."""
DROP_SPACE = ("Whitespace", "WhitespaceSplit", "BertPreTokenizer")
"""Pre-tokenizers that lose white space."""
EACH_CHARACTER = {"type": "Split", "pattern": {"Regex": r"[\s\S]"}, "behavior": "Isolated", "invert": False}
"""The pre-tokenizer of Foundray's own `char` tokenizers."""


class Anatomy:
    """Parts of a tokenizer.json, and what follows from them."""

    def __init__(self, engine: Engine):
        self.model, self.kind = engine.model, type(engine.model).__name__
        self.normalizers, self.pre_tokenizers = _each(engine.normalizer), _each(engine.pre_tokenizer)
        added = engine.get_added_tokens_decoder()
        self.of_model: dict[str, int] = engine.get_vocab(with_added_tokens=False)
        """Ids of the model's own tokens, without added ones."""
        self.ids = {**self.of_model, **{token.content: number for number, token in added.items()}}
        self.special = {token.content: token.special for token in added.values()}
        """Whether each added token is special."""

    @cached_property
    def unknown(self) -> str | None:
        """The unknown token, if it is in the vocabulary."""
        if self.kind == "Unigram":
            return self.model.id_to_token(number) if (number := _fields(self.model)["unk_id"]) is not None else None
        return self.model.unk_token if self.model.unk_token in self.of_model else None

    @property
    def unknown_id(self) -> int | None:
        return None if self.unknown is None else self.of_model[self.unknown]

    @cached_property
    def lacking(self) -> list[tuple[Collection[str], str]]:
        """(missing tokens, what they are) of each way in which it writes unknown text as bytes."""
        ways: list[tuple[Collection[str], str]] = []
        if getattr(self.model, "byte_fallback", False) or (self.kind == "Unigram" and _fields(self.model)["byte_fallback"]):
            ways.append((byte_tokens() - self.of_model.keys(), "tokens for bytes (model.byte_fallback)"))
        if self.kind == "BPE" and any(part["type"] == "ByteLevel" for part in self.normalizers + self.pre_tokenizers):
            before, after = (self.model.continuing_subword_prefix or "", self.model.end_of_word_suffix or "")
            written = {a + letter + b for letter in byte_letters() for a in {"", before} for b in {"", after}}
            ways.append((written - self.of_model.keys(), "letters that stand for bytes (ByteLevel)"))
        return ways

    @property
    def complete(self) -> bool:
        """Whether it can encode any text without an unknown token."""
        return any(not missing for missing, _ in self.lacking)

    def fault(self) -> str | None:
        """Why it cannot be used, and what would be right; None if it can."""
        return self._fault_of_unknown() or self._fault_of_ids()

    def _fault_of_unknown(self) -> str | None:
        named = getattr(self.model, "unk_token", None)
        needs_none = self.complete and self.kind == "BPE"  # a Unigram fails without an unknown token even if it has all bytes
        if needs_none or self.unknown is not None:
            return None
        lacks = [f"it lacks {_some(missing)} of the {what}" for missing, what in self.lacking if missing]
        also = f" ({'; '.join(lacks)})" if lacks else ""
        outcome = "vanish" if self.kind == "BPE" and named is None else "end in an error"
        what = "has no unknown token" if named is None else f"names the unknown token {named!r}, which its vocabulary lacks"
        field = "model.unk_id" if self.kind == "Unigram" else "model.unk_token"
        right = f"put one into model.vocab and name it in {field}" + (", or make it byte-level" if self.kind == "BPE" else "")
        return f"{what}{also}, so that characters outside its vocabulary would {outcome}: {right}"

    def _fault_of_ids(self) -> str | None:
        tokens, highest = len(self.ids), max(self.ids.values(), default=0)
        if highest >= MOST_IDS or highest + 1 - tokens > max(MOST_GAPS, tokens):
            problem = f"has {tokens:,} tokens with ids up to {highest:,}, and each id takes a row of the embedding"
            return f"{problem}: number them from 0 without gaps, up to {MOST_IDS - 1:,} at most"
        names: dict[int, str] = {}
        for token, number in self.ids.items():
            if self.special.get(token):
                continue  # text never becomes a special token
            if number in names:
                one, other = sorted((names[number], token))
                return f"has one id, {number}, for the tokens {one!r} and {other!r}: give each an id of its own"
            names[number] = token
        return None

    def unfit_to_open(self, token: str) -> str | None:
        """Why a token must not open documents; None if it may."""
        if token not in self.ids:
            return f"has no token {token!r}"
        if shared := [other for other, number in self.ids.items() if number == self.ids[token] and other != token]:
            return f"has one id for {token!r} and {shared[0]!r}"
        if token == self.unknown and not self.complete:
            return f"also has {token!r} for unknown text"
        if not self.special.get(token) and (token in self.special or self._text_can_become(token)):
            return f"has {token!r} as an ordinary token, which text can spell"
        return None

    def _text_can_become(self, token: str) -> bool:
        """Whether some text may become this token."""
        if self.kind == "WordLevel":
            return self.pre_tokenizers != [EACH_CHARACTER] or len(token) == 1
        if self.kind != "BPE" or self.model.continuing_subword_prefix or self.model.end_of_word_suffix:
            return True
        of_bytes = self.model.byte_fallback and token in byte_tokens()
        merges = _fields(self.model)["merges"]
        return len(token) == 1 or self.model.ignore_merges or of_bytes or any("".join(pair) == token for pair in merges)

    def remarks(self) -> list[str]:
        """What it drops or changes in a text, on purpose."""
        changing = dict.fromkeys(part["type"] for part in self.normalizers if _changes(part))
        remarks = [f"its normalizer ({', '.join(changing)}) changes the text"] if changing else []
        return remarks + [
            f"its pre-tokenizer ({part['type']}) drops {dropped}" for part in self.pre_tokenizers if (dropped := _dropped(part))
        ]


@cache
def byte_letters() -> frozenset[str]:
    """Letters that byte-level tokenizers write for the bytes of UTF-8."""
    pieces = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False).pre_tokenize_str(_every_byte())
    return frozenset("".join(piece for piece, _ in pieces))


@cache
def byte_tokens() -> frozenset[str]:
    """Tokens that `byte_fallback` writes for the bytes of UTF-8."""
    return frozenset(f"<0x{byte:02X}>" for byte in _every_byte().encode())


def _every_byte() -> str:
    """Text whose UTF-8 contains every byte that UTF-8 can: 243 of 256."""
    first_of_three, first_of_four = (0x800, *range(0x1000, 0x10000, 0x1000)), (0x10000, *range(0x40000, 0x110000, 0x40000))
    return "".join(map(chr, (*range(0x800), *first_of_three, *first_of_four)))


def _fields(part: Any) -> dict[str, Any]:
    """Fields of a model, normalizer or pre-tokenizer in tokenizer.json."""
    return dict(json.loads(part.__getstate__()))


def _each(part: Any) -> list[dict[str, Any]]:
    """Fields of a normalizer or pre-tokenizer, or of each one in a sequence, in order."""
    return [] if part is None else list(_flat(_fields(part)))


def _flat(fields: dict[str, Any]) -> Iterator[dict[str, Any]]:
    if fields["type"] != "Sequence":
        yield fields
    for part in fields.get("normalizers", ()) or fields.get("pretokenizers", ()):
        yield from _flat(part)


def _changes(normalizer: dict[str, Any]) -> bool:
    if normalizer["type"] == "Replace":  # SentencePiece writes a space as its own letter
        return (normalizer["pattern"], normalizer["content"]) != ({"String": " "}, "▁")
    return normalizer["type"] not in KEEP_TEXT


def _dropped(pre_tokenizer: dict[str, Any]) -> str:
    """What a pre-tokenizer drops; empty for nothing."""
    if pre_tokenizer["type"] in DROP_SPACE:
        return "white space"
    if pre_tokenizer["type"] == "CharDelimiterSplit":
        return f"each {pre_tokenizer['delimiter']!r}"
    if pre_tokenizer.get("behavior") != "Removed":
        return ""
    if pre_tokenizer["type"] == "Punctuation":
        return "punctuation"
    pattern = next(iter(pre_tokenizer["pattern"].values()))
    return f"what {pattern!r} {'does not match' if pre_tokenizer['invert'] else 'matches'}"


def _some(tokens: Collection[str]) -> str:
    shown = ", ".join(repr(token) for token in sorted(tokens)[:3])
    return shown if len(tokens) <= 3 else f"{len(tokens):,} ({shown}, …)"
