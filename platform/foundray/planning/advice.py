"""Should one pre-train? Reasons for and against, each with its number, and a verdict that follows from them.

Pre-training from scratch is for a new architecture, tokenizer or modality, a language or kind of data that existing models do
not cover, full control over what went in, or research. Otherwise a model that exists is the better start: fine-tuning learns
a task or a style from little (Howard and Ruder 2018), continued pre-training a domain from much (Gururangan et al. 2020,
arXiv:2004.10964). The data shows coverage and amount; what else speaks for it, only the user knows (`--because`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from foundray.planning.budget import FEW_EPOCHS, MANY_EPOCHS, TOKENS_A_PARAMETER, Budget
from foundray.planning.coverage import COVERED, UNKNOWN, Compared, Coverage
from foundray.planning.survey import Survey
from foundray.planning.words import count, ratio
from foundray.spec import Spec
from foundray.wording.sentences import plain

BECAUSE = {
    "architecture": "the architecture is new: no model of it exists to start from",
    "control": "full control over what the model has seen: of existing models that is seldom known",
    "research": "research into pre-training itself",
}
"""Reasons that no data can show."""
LITTLE = 1e8
"""Words (of other data: units) below which a model knows little of the world: 10 to 100 million words teach grammar, and
not much else (Zhang et al. 2021, arXiv:2011.04946; Warstadt et al. 2023, BabyLM). Judgement for other data than text."""
LETTERS_A_WORD = 2
"""Of scripts without spaces between words, about."""
TOO_FEW, TOO_MANY = 0.25, 4.0
"""Times the 20 tokens a parameter, beyond which it is said: there the same loss takes a sixth more compute, by Hoffmann's
law."""

Verdict = Literal["pre-train", "continue", "fine-tune"]
MEANING = {
    "pre-train": "train this model from scratch",
    "continue": "go on pre-training a model that exists, on this data (init_from, where it is a run)",
    "fine-tune": "take a model that exists, and fine-tune it",
}


@dataclass(frozen=True)
class Advice:
    verdict: Verdict
    why: str
    """What decided, in a few words."""
    reasons: tuple[str, ...]
    """For pre-training."""
    objections: tuple[str, ...]
    changes: tuple[str, ...]
    """What would make the run a better one."""


def advice(spec: Spec, survey: Survey, budget: Budget, coverage: Coverage | None, because: Sequence[str]) -> Advice:
    """What follows from what was measured, and from what the user says."""
    reasons = [BECAUSE[name] for name in because]
    objections: list[str] = []
    best = coverage.best if coverage else None
    covers = best.covers if best else ""
    public = spec.data.modality.build().public
    if best:
        (objections if covers == "covered" else reasons).append(of_coverage(best, survey.spaced))
    if not survey.of_text and public:
        objections.append(
            f"models of this kind of data exist ({', '.join(public)} and others): try first what they make of yours"
        )
    elif not survey.of_text:
        reasons.append(f"the data is {survey.kind}: of its kind no model is known that everybody could start from")
    amount = _amount(spec, survey, budget)
    objections += _of_amount(survey, budget, amount)
    verdict, why = _verdict(spec, survey, amount, because, covers, public)
    return Advice(verdict, why, tuple(reasons), tuple(objections), tuple(_changes(survey, budget, coverage, verdict)))


@dataclass(frozen=True)
class Amount:
    """Of different data to train on."""

    number: float
    what: str
    """`words`, or units."""

    def __str__(self) -> str:
        return f"{count(self.number)} {self.what}"


def _amount(spec: Spec, survey: Survey, budget: Budget) -> Amount:
    if not survey.of_text:
        return Amount(budget.unique, survey.unit)
    counts = survey.counts
    words = counts.words if survey.spaced else counts.characters / LETTERS_A_WORD
    return Amount(words * (1 - spec.data.holdout) * (1 - survey.documents.bytes), "words")


def _verdict(
    spec: Spec, survey: Survey, amount: Amount, because: Sequence[str], covers: str, public: Sequence[str]
) -> tuple[Verdict, str]:
    much = amount.number >= LITTLE
    if spec.init_from:
        return "continue", f"the spec begins from the weights of {plain(str(spec.init_from))} (init_from)"
    if because:
        return "pre-train", f"because of {', '.join(because)}"
    if covers == "uncovered":
        return "pre-train", "no tokenizer that was named covers this data (unless you find a model whose tokenizer does)"
    if not survey.of_text and not public:
        return "pre-train", "there is no model to start from"
    told = f"{amount} are {'enough to move a model' if much else 'few to begin with'}"
    if not survey.of_text:
        return ("continue" if much else "fine-tune"), f"models of this kind of data exist, and {told}; else pre-train"
    if covers == "partly":
        return "continue", f"the tokenizer covers this data in part, and {told}"
    first = "the tokenizer covers this data" if covers else "nothing here asks for a model of its own"
    return ("continue" if much else "fine-tune"), f"{first}, and {told}"


def of_coverage(one: Compared, spaced: bool) -> str:
    """The gap between a tokenizer and one trained on the data, in a sentence with its numbers."""
    named, own = one.named, one.own
    if spaced:
        there, here, of = f"{named.a_word:.2f}", f"{own.a_word:.2f}", "a word"
    else:
        there, here, of = f"{named.a_character:.2f}", f"{own.a_character:.2f}", "a character"
    told = f"{named.name} needs {there} tokens {of} where one trained on this data ({own.vocabulary:,} ids) needs {here}"
    lost = f"; it has no token for {named.unknown:.1%} of the characters" if named.unknown >= UNKNOWN / 10 else ""
    if one.covers == "covered":
        return f"{told}{lost}: it covers this data"
    if one.gap <= COVERED:
        return f"{told}{lost}: it does not cover this data"
    end = "your language, or kind of text, is not covered" if one.covers == "uncovered" else "it is covered in part"
    return (
        f"{told}: {one.gap:.1f} times as many steps for the same text, and a {one.gap:.1f} times shorter context{lost}: {end}"
    )


def _of_amount(survey: Survey, budget: Budget, amount: Amount) -> list[str]:
    if not survey.vocabulary:  # values are augmented and repeated hundreds of times: the rules for tokens say nothing
        return []
    found = []
    per, wanted = budget.a_parameter, TOKENS_A_PARAMETER
    if per < TOO_FEW * wanted:
        once, often = (count(budget.size_for_data(epochs)) for epochs in (1, FEW_EPOCHS))
        found.append(
            f"too few tokens for the size: {count(budget.worth)} new tokens for {count(budget.parameters)} parameters are "
            f"{ratio(per)} a parameter, and about {wanted:.0f} are best; this data is enough for {once} parameters "
            f"({often} at {FEW_EPOCHS:.0f} epochs)"
        )
    if amount.number < LITTLE and survey.of_text:
        found.append(f"{amount} teach a model grammar at best: knowledge of the world takes {count(LITTLE)} and more")
    if budget.epochs > FEW_EPOCHS:
        much = "nothing to speak of after the 16th" if budget.epochs > MANY_EPOCHS else "less and less after the 4th"
        found.append(f"{ratio(budget.epochs)} epochs: repeating is worth {much}")
    return found


def _changes(survey: Survey, budget: Budget, coverage: Coverage | None, verdict: Verdict) -> list[str]:
    found, per = [], budget.a_parameter / TOKENS_A_PARAMETER
    fits = budget.size_for_data(min(FEW_EPOCHS, max(1.0, budget.epochs)))
    of_tokens = verdict == "pre-train" and survey.vocabulary
    if of_tokens and per < TOO_FEW:
        found.append(f"a model of about {count(fits)} parameters, or {ratio(1 / per)} times the data")
    if of_tokens and per > TOO_MANY:
        found.append(
            f"a larger model: {count(budget.optimum)} parameters would make more of this compute; a small one is cheaper to use"
        )
    if of_tokens and budget.epochs > MANY_EPOCHS:
        found.append(f"fewer steps: after {FEW_EPOCHS:.0f} epochs nearly all is learned that there is")
    if survey.documents.bytes > 0.05:
        found.append(f"leave out copies: {survey.documents.bytes:.0%} of the bytes are in documents that were there before")
    if coverage and coverage.spec.unknown >= UNKNOWN:
        found.append(f"another tokenizer: that of this spec has no token for {coverage.spec.unknown:.1%} of the characters")
    if coverage and not coverage.named:
        found.append("name the tokenizer.json of models that you might start from (--tokenizer): then coverage is measured")
    return found
