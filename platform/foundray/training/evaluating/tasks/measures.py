"""Measures of a task: accuracies and bits per byte, each with its standard error over the items."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from foundray.data.formats import Rewrites
from foundray.data.tokenizers.checks import Anatomy
from foundray.data.tokenizers.tokenizer import Tokenizer
from foundray.errors import InputError
from foundray.training.evaluating.tasks.items import Item
from foundray.training.evaluating.tasks.requests import Request, requests_of
from foundray.training.evaluating.tasks.scoring import Likelihood, Scorer
from foundray.wording.words import plural

TIE = 1e-9
"""Largest relative difference of log-likelihoods (sums in double precision) that counts as none."""


@dataclass(frozen=True)
class Measure:
    name: str
    value: float
    error: float | None
    """Standard error over the items; None for one item, or for a measure that has none."""
    higher_is_better: bool

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True)
class Question:
    """An item and its requests, a list per candidate."""

    item: Item
    candidates: list[list[Request]]


def questions_of(
    items: Sequence[Item], tokenizer: Tokenizer, context: int, where: str, rewrites: Rewrites = ()
) -> list[Question]:
    """Tokenize the items, with `rewrites`: what the readers of the run's data do to all texts.

    Raises InputError, which names the item, if one cannot be scored.
    """
    found = []
    for number, item in enumerate(items, 1):
        try:
            read = item.rewritten(rewrites)
            found.append(Question(read, requests_of(read, tokenizer, context)))
        except InputError as error:
            raise InputError(f"{where}, item {number}: {error}") from None
    return found


def flat(questions: Sequence[Question]) -> list[Request]:
    """All requests, in order."""
    return [request for question in questions for requests in question.candidates for request in requests]


def unknown_of(questions: Sequence[Question], tokenizer: Tokenizer) -> str:
    """What the tokenizer does not know of the texts asked for, for people; empty if it knows all."""
    if (unknown_id := Anatomy(tokenizer.engine).unknown_id) is None:
        return ""
    asked = [request.ids[-request.asked :] for request in flat(questions)]
    unknown = sum(int((ids == unknown_id).sum()) for ids in asked)
    if not unknown:
        return ""
    return (
        f"{unknown:,} of the {plural(sum(map(len, asked)), 'token')} asked for are unknown to the run's tokenizer, "
        "which cannot tell them apart"
    )


@dataclass(frozen=True)
class Score:
    """What a model, or a floor, is worth at a task."""

    measures: list[Measure]
    """The most telling first."""
    groups: dict[str, Measure]
    """The first measure of each group of items, if they name groups."""


def judge(questions: Sequence[Question], scorer: Scorer, share_ties: bool = False) -> Score:
    """Score the questions and measure; `share_ties` as for `measured`."""
    return measured(questions, scorer(flat(questions)), share_ties)


def measured(questions: Sequence[Question], answers: Sequence[Likelihood], share_ties: bool = False) -> Score:
    """Measures of the questions, from the answers to `flat(questions)`.

    Of candidates that are as likely, the first is chosen, as lm-eval does. With `share_ties` each of k counts 1/k instead, as a
    floor needs it: it ties often, and the first of a pair is always the good one.
    """
    rest = iter(answers)
    scored = [
        _Scored.of(question, [[next(rest) for _ in requests] for requests in question.candidates], share_ties)
        for question in questions
    ]
    measures = _MEASURES[questions[0].item.kind]
    names = dict.fromkeys(one.item.group for one in scored)
    groups = {name: measures[0]([one for one in scored if one.item.group == name]) for name in names if name}
    return Score([measure(scored) for measure in measures], groups)


def chance(questions: Sequence[Question]) -> float | None:
    """Accuracy of a guess; None if there is nothing to choose from."""
    choices = [len(question.candidates) for question in questions]
    return None if min(choices) == 1 else float(np.mean(1 / np.array(choices)))


@dataclass(frozen=True)
class _Scored:
    item: Item
    log_probs: np.ndarray
    """Of each candidate, in nats."""
    greedy: bool
    """Whether each token of the right candidate is the likeliest."""
    share_ties: bool
    """Whether candidates that are as likely share the choice."""

    @staticmethod
    def of(question: Question, answers: list[list[Likelihood]], share_ties: bool) -> _Scored:
        log_probs = np.array([sum(answer.log_prob for answer in of_candidate) for of_candidate in answers])
        return _Scored(question.item, log_probs, all(answer.greedy for answer in answers[question.item.gold]), share_ties)

    @property
    def right(self) -> float:
        """1 if the right candidate is the likeliest, otherwise 0; in between if it shares that."""
        return self._credit(self.log_probs)

    @property
    def right_by_length(self) -> float:
        """The same by log-likelihood per character, as lm-eval's `acc_norm`."""
        return self._credit(self.log_probs / np.array([len(candidate.said) for candidate in self.item.candidates]))

    def _credit(self, values: np.ndarray) -> float:
        gold = self.item.gold
        if not self.share_ties:
            return float(values.argmax() == gold)
        # The same tokens in another order are as likely, although their sum rounds otherwise.
        tied = np.isclose(values, values.max(), rtol=TIE, atol=0)
        return float(tied[gold] / tied.sum())

    @property
    def bits(self) -> float:
        """Of the right candidate."""
        return float(-self.log_probs[self.item.gold] / math.log(2))

    @property
    def text(self) -> str:
        return self.item.candidates[self.item.gold].text


Judge = Callable[[Sequence[_Scored]], Measure]


def _accuracy(name: str, right: Callable[[_Scored], float]) -> Judge:
    def measure(scored: Sequence[_Scored]) -> Measure:
        values = np.array([right(one) for one in scored], float)
        error = float(values.std(ddof=1) / math.sqrt(len(values))) if len(values) > 1 else None
        return Measure(name, float(values.mean()), error, True)

    return measure


def _bits_per_byte(scored: Sequence[_Scored]) -> Measure:
    """Bits of all right answers by their UTF-8 bytes; the error of that ratio, by linearisation (Cochran 1977, 2.39)."""
    bits = np.array([one.bits for one in scored])
    sizes = np.array([len(one.text.encode()) for one in scored], float)
    ratio = float(bits.sum() / sizes.sum())
    error = None
    if len(bits) > 1:
        error = float(np.sqrt(((bits - ratio * sizes) ** 2).sum() / (len(bits) * (len(bits) - 1))) / sizes.mean())
    return Measure("bits_per_byte", ratio, error, False)


def _per_word(scored: Sequence[_Scored]) -> Measure:
    """Perplexity per word, words being what spaces divide: as lm-eval's `word_perplexity`."""
    words = sum(len(re.split(r"\s+", one.text)) for one in scored)
    nats = sum(one.bits for one in scored) * math.log(2) / words
    return Measure("word_perplexity", math.exp(min(nats, 700.0)), None, False)


_MEASURES: dict[str, tuple[Judge, ...]] = {
    "choice": (
        _accuracy("accuracy", lambda one: one.right),
        _accuracy("accuracy_by_length", lambda one: one.right_by_length),
        _bits_per_byte,
    ),
    "answer": (_bits_per_byte, _accuracy("greedy_accuracy", lambda one: one.greedy)),
    "pair": (_accuracy("accuracy", lambda one: one.right),),
    "text": (_bits_per_byte, _per_word),
}
"""Measures by the items' kind, the most telling first."""
