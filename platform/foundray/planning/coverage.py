"""How well a tokenizer covers the data: its fertility (tokens per word; Rust et al. 2021, arXiv:2012.15613) on held-out text,
beside that of a byte-pair tokenizer trained on the rest.

The ratio of the two is the price of another language: that many times the steps for the same text, and that much less text in
a context (Petrov et al. 2023, arXiv:2305.15425; Ahia et al. 2023, arXiv:2305.13707).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from foundray.data.prepare.vocabulary import known_tokenizer
from foundray.data.tokenizers.checks import Anatomy
from foundray.data.tokenizers.encoding import EngineFailed, calling, encode_or_reason
from foundray.data.tokenizers.file import read_engine
from foundray.data.tokenizers.tokenizer import Tokenizer, make_char, train_bpe
from foundray.data.tokenizers.training_sample import without_long_words
from foundray.errors import InputError
from foundray.planning.reading import WORD
from foundray.planning.survey import Survey
from foundray.spec import Spec

MEASURED_CHARACTERS = 2**20
"""Most characters measured, of held-out text and of all text: more would not change the third digit."""
LEAST_SEEN = 10
"""Least occurrences, in the training part, of a pair of the data's own tokenizer: its vocabulary is as large as the data
supports. Judgement."""
COVERED, UNCOVERED = 1.2, 1.5
"""A gap up to the first does not matter; from the second on, every text costs half as much again, in training and in use.
Judgement: papers give ratios between languages (1 to 15), and no threshold."""
UNKNOWN = 0.01
"""Fraction of characters without a token above which a tokenizer does not cover the data: judgement."""


@dataclass(frozen=True)
class Fertility:
    """Fertility of one tokenizer on the held-out text."""

    name: str
    vocabulary: int
    tokens: int
    words: int
    bytes: int
    characters: int
    unknown: float
    """Share of the characters, white space apart, that it takes for unknown or drops."""
    remarks: tuple[str, ...] = ()
    """What it drops of a text on purpose."""

    @property
    def per_word(self) -> float:
        return self.tokens / max(1, self.words)

    @property
    def per_byte(self) -> float:
        return self.tokens / max(1, self.bytes)

    @property
    def per_character(self) -> float:
        return self.tokens / max(1, self.characters)


@dataclass(frozen=True)
class Compared:
    """A named tokenizer, and one trained on this data with as many ids, or as many as the data supports."""

    named: Fertility
    own: Fertility

    @property
    def gap(self) -> float:
        """Tokens that it needs per token of the data's own."""
        return self.named.tokens / max(1, self.own.tokens)

    @property
    def covers(self) -> str:
        """`covered`, `partly` or `uncovered`."""
        if self.gap >= UNCOVERED or self.named.unknown >= UNKNOWN:
            return "uncovered"
        return "covered" if self.gap <= COVERED else "partly"


@dataclass(frozen=True)
class Coverage:
    spec: Fertility
    """Coverage by the spec's own tokenizer."""
    named: tuple[Compared, ...]
    trained_on: int
    """Bytes that the data's own tokenizers are trained on."""
    spaced: bool
    """Whether spaces separate words."""

    @property
    def best(self) -> Compared | None:
        """The best of the named ones: one that covers comes before one that needs fewer tokens."""
        order = {"covered": 0, "partly": 1, "uncovered": 2}
        return min(self.named, key=lambda one: (order[one.covers], one.gap)) if self.named else None

    def to_dict(self) -> dict[str, Any]:
        def facts(one: Fertility) -> dict[str, Any]:
            ratios = {"tokens_a_word": one.per_word, "tokens_a_byte": one.per_byte, "tokens_a_character": one.per_character}
            return {**asdict(one), **ratios}

        return {
            "spec": facts(self.spec),
            "named": [{**facts(one.named), "own": facts(one.own), "gap": one.gap, "verdict": one.covers} for one in self.named],
            "trained_on_bytes": self.trained_on,
            "words_between_spaces": self.spaced,
        }


def load_named(paths: Sequence[str]) -> dict[str, Tokenizer]:
    """Load tokenizer.json files, or those in folders, by a name for each. Raises InputError."""
    found: dict[str, Tokenizer] = {}
    for path in paths:
        file = Path(path) / "tokenizer.json" if Path(path).is_dir() else Path(path)
        name = file.parent.name or str(file) if file.name == "tokenizer.json" else file.name
        found[name if name not in found else str(file)] = Tokenizer(read_engine(str(file), "--tokenizer"), -1)
    return found


def coverage(spec: Spec, survey: Survey, named: dict[str, Tokenizer]) -> Coverage | None:
    """Coverage by the named tokenizers and the spec's own; None for data that no tokenizer cuts. Raises InputError."""
    if not survey.of_text:
        if named:
            raise InputError(f"--tokenizer: a tokenizer cuts text, and the data is {survey.kind}; leave it out")
        return None
    # Train on the training split, measure on the held-out text.
    training, held_out = _split(survey, spec.data.holdout)
    sample = _first([piece for source in survey.sources for piece in source.pieces], MEASURED_CHARACTERS)
    own: dict[int, Fertility] = {}
    size = sum(len(text.encode()) for text in training)
    compared = []
    # The largest vocabulary first: if the data does not support it, the smaller result serves the smaller ones too.
    for name, tokenizer in sorted(named.items(), key=lambda item: -item[1].vocabulary):
        wanted = tokenizer.vocabulary
        if not own or min(one.vocabulary for one in own.values()) > wanted:
            trained = train_bpe(without_long_words(training), max(257, wanted), LEAST_SEEN)
            own[wanted] = fertility("trained on this data", trained, held_out, sample)
        compared.append(
            Compared(fertility(name, tokenizer, held_out, sample), min(own.values(), key=lambda one: one.vocabulary))
        )
    # In the order in which they were named.
    order = list(named)
    compared.sort(key=lambda one: order.index(one.named.name))
    spec_tokenizer = _of_spec(spec, survey, training)
    kind = f"of this spec ({spec.data.tokenizer.kind})"
    return Coverage(fertility(kind, spec_tokenizer, held_out, sample), tuple(compared), size, survey.spaced)


def _split(survey: Survey, holdout: float) -> tuple[list[str], list[str]]:
    """The sample of text before and after the start of each source's validation split, by characters."""
    training, held_out = list[str](), list[str]()
    for source in survey.sources:
        left = (1 - holdout) * sum(map(len, source.pieces))
        for piece in source.pieces:
            cut = max(0, min(len(piece), int(left)))
            training += [piece[:cut]] if cut else []
            held_out += [piece[cut:]] if cut < len(piece) else []
            left -= len(piece)
    return training, _first(held_out, MEASURED_CHARACTERS)


def _first(texts: list[str], most: int) -> list[str]:
    """Every n-th text, so that they hold about `most` characters."""
    every = max(1, -(-sum(map(len, texts)) // most))
    return texts[::every]


def _of_spec(spec: Spec, survey: Survey, training: list[str]) -> Tokenizer:
    if (known := known_tokenizer(spec)) is not None:
        return known
    if spec.data.tokenizer.kind == "char":
        return make_char({letter for source in survey.sources for piece in source.pieces for letter in piece})
    return train_bpe(without_long_words(training), int(spec.data.tokenizer.vocab_size or 0))


def fertility(name: str, tokenizer: Tokenizer, texts: Sequence[str], sample: Sequence[str] | None = None) -> Fertility:
    """Fertility of a tokenizer on some texts; the unknown share is measured on `sample`, if given."""
    parts = Anatomy(tokenizer.engine)
    tokens = sum(len(ids) for ids in encode_or_reason(tokenizer, texts) if not isinstance(ids, str))
    words = pc.sum(pc.count_substring_regex(pa.array(texts, pa.large_string()), WORD)).as_py() or 0
    size, characters = sum(len(text.encode()) for text in texts), sum(map(len, texts))
    unknown = without_token(tokenizer, parts, texts if sample is None else sample)
    return Fertility(name, tokenizer.vocabulary, tokens, words, size, characters, unknown, tuple(parts.remarks()))


def without_token(tokenizer: Tokenizer, parts: Anatomy, texts: Sequence[str]) -> float:
    """Share of the characters without a token other than the unknown one; white space counts only if it is unknown."""
    if parts.complete and not parts.remarks():
        return 0.0
    missed = counted = 0
    for text in texts:
        known, unknown = np.zeros(len(text), bool), np.zeros(len(text), bool)
        solid = np.array([not letter.isspace() for letter in text], bool)
        try:
            encoding = calling(tokenizer.engine.encode, text, None, False, False)
        except EngineFailed:  # the whole text has no tokens
            pass
        else:
            for number, (start, stop) in zip(encoding.ids, encoding.offsets, strict=True):
                if number != parts.unknown_id:
                    known[start:stop] = True
                elif not solid[start:stop].any():
                    unknown[start:stop] = True
        missed += int(((solid | unknown) & ~known).sum())
        counted += int((solid | unknown).sum())
    return missed / max(1, counted)
