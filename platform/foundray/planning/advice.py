"""Whether to pre-train: reasons for and against, each with its number, and the verdict that follows from them.

Pre-training from scratch is for a new architecture, tokenizer or modality, a language or kind of data that existing models do
not cover, full control over the data, or research. Otherwise an existing model is the better start: fine-tuning learns a task
or a style from little data (Howard and Ruder 2018), continued pre-training a domain from much (Gururangan et al. 2020,
arXiv:2004.10964). The data shows coverage and amount; other reasons only the user knows (`--because`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from foundray.planning.budget import FEW_EPOCHS, MANY_EPOCHS, TOKENS_PER_PARAMETER, Budget
from foundray.planning.coverage import COVERED, UNKNOWN, Compared, Coverage
from foundray.planning.survey import Survey
from foundray.planning.words import count, ratio
from foundray.spec import Spec
from foundray.wording.sentences import plain

BECAUSE = {
    "architecture": "the architecture is new: no model of it exists to start from",
    "control": "full control over what the model has seen, which is seldom known of existing models",
    "research": "research into pre-training itself",
}
"""Reasons that no data can show."""
LITTLE = 1e8
"""Words (of other data: units) below which a model knows little of the world: 10 to 100 million words teach grammar, and
not much else (Zhang et al. 2021, arXiv:2011.04946; Warstadt et al. 2023, BabyLM). Judgement for other data than text."""
LETTERS_PER_WORD = 2
"""In scripts without spaces between words, about."""
TOO_FEW, TOO_MANY = 0.25, 4.0
"""Multiples of 20 tokens per parameter beyond which the plan says so: there the same loss takes a sixth more compute, by
Hoffmann's law."""

Verdict = Literal["pre-train", "continue", "fine-tune"]
MEANING = {
    "pre-train": "train this model from scratch",
    "continue": "continue pre-training an existing model on this data (init_from, if it is a run)",
    "fine-tune": "fine-tune an existing model",
}


@dataclass(frozen=True)
class Advice:
    verdict: Verdict
    why: str
    """The deciding reason, in a few words."""
    reasons: tuple[str, ...]
    """For pre-training."""
    objections: tuple[str, ...]
    changes: tuple[str, ...]
    """Changes that would improve the run."""


def advice(spec: Spec, survey: Survey, budget: Budget, coverage: Coverage | None, because: Sequence[str]) -> Advice:
    """The advice that follows from the measurements and the user's reasons."""
    reasons = [BECAUSE[name] for name in because]
    objections: list[str] = []
    best = coverage.best if coverage else None
    covers = best.covers if best else ""
    public = spec.data.modality.build().public
    if best:
        (objections if covers == "covered" else reasons).append(of_coverage(best, survey.spaced))
    if not survey.of_text and public:
        objections.append(f"models of this kind of data exist ({', '.join(public)} and others): try them on your data first")
    elif not survey.of_text:
        reasons.append(f"the data is {survey.kind}: no public model of this kind is known to start from")
    amount = _amount(spec, survey, budget)
    objections += _of_amount(survey, budget, amount)
    verdict, why = _verdict(spec, survey, amount, because, covers, public)
    return Advice(verdict, why, tuple(reasons), tuple(objections), tuple(_changes(survey, budget, coverage, verdict)))


@dataclass(frozen=True)
class Amount:
    """The amount of distinct data to train on."""

    number: float
    what: str
    """`words`, or units."""

    def __str__(self) -> str:
        return f"{count(self.number)} {self.what}"


def _amount(spec: Spec, survey: Survey, budget: Budget) -> Amount:
    if not survey.of_text:
        return Amount(budget.unique, survey.unit)
    counts = survey.counts
    words = counts.words if survey.spaced else counts.characters / LETTERS_PER_WORD
    return Amount(words * (1 - spec.data.holdout) * (1 - survey.documents.bytes), "words")


def _verdict(
    spec: Spec, survey: Survey, amount: Amount, because: Sequence[str], covers: str, public: Sequence[str]
) -> tuple[Verdict, str]:
    much = amount.number >= LITTLE
    if spec.init_from:
        return "continue", f"the spec starts from the weights of {plain(str(spec.init_from))} (init_from)"
    if because:
        return "pre-train", f"because of {', '.join(because)}"
    if covers == "uncovered":
        return "pre-train", "none of the named tokenizers covers this data (unless you find a model whose tokenizer does)"
    if not survey.of_text and not public:
        return "pre-train", "there is no model to start from"
    enough = f"{amount} are {'enough to change a model' if much else 'too few to start with'}"
    if not survey.of_text:
        return ("continue" if much else "fine-tune"), f"models of this kind of data exist, and {enough}; otherwise pre-train"
    if covers == "partly":
        return "continue", f"the tokenizer covers this data in part, and {enough}"
    first = "the tokenizer covers this data" if covers else "nothing here needs a model of its own"
    return ("continue" if much else "fine-tune"), f"{first}, and {enough}"


def of_coverage(compared: Compared, spaced: bool) -> str:
    """The gap between a tokenizer and one trained on the data, in a sentence with its numbers."""
    named, own = compared.named, compared.own
    if spaced:
        there, here, unit = f"{named.per_word:.2f}", f"{own.per_word:.2f}", "word"
    else:
        there, here, unit = f"{named.per_character:.2f}", f"{own.per_character:.2f}", "character"
    needs = f"{named.name} needs {there} tokens per {unit}; one trained on this data ({own.vocabulary:,} ids) needs {here}"
    lost = f"; it has no token for {named.unknown:.1%} of the characters" if named.unknown >= UNKNOWN / 10 else ""
    if compared.covers == "covered":
        return f"{needs}{lost}: it covers this data"
    if compared.gap <= COVERED:
        return f"{needs}{lost}: it does not cover this data"
    gap = f"{compared.gap:.1f}"
    end = "your language, or kind of text, is not covered" if compared.covers == "uncovered" else "it is covered in part"
    return f"{needs}: {gap} times as many steps for the same text, and a {gap} times shorter context{lost}: {end}"


def _of_amount(survey: Survey, budget: Budget, amount: Amount) -> list[str]:
    if not survey.vocabulary:  # values are augmented and repeated hundreds of times: the rules for tokens do not apply
        return []
    found = []
    per, wanted = budget.tokens_per_parameter, TOKENS_PER_PARAMETER
    if per < TOO_FEW * wanted:
        once, repeated = (count(budget.size_for_data(epochs)) for epochs in (1, FEW_EPOCHS))
        found.append(
            f"too few tokens for the size: {count(budget.worth)} new tokens for {count(budget.parameters)} parameters are "
            f"{ratio(per)} per parameter, and about {wanted:.0f} are best; this data is enough for {once} parameters "
            f"({repeated} at {FEW_EPOCHS:.0f} epochs)"
        )
    if amount.number < LITTLE and survey.of_text:
        found.append(f"{amount} teach a model grammar at best: knowledge of the world takes {count(LITTLE)} or more")
    if budget.epochs > FEW_EPOCHS:
        gain = "almost nothing after the 16th" if budget.epochs > MANY_EPOCHS else "less and less after the 4th"
        found.append(f"{ratio(budget.epochs)} epochs: repeating is worth {gain}")
    return found


def _changes(survey: Survey, budget: Budget, coverage: Coverage | None, verdict: Verdict) -> list[str]:
    found, per = [], budget.tokens_per_parameter / TOKENS_PER_PARAMETER
    fits = budget.size_for_data(min(FEW_EPOCHS, max(1.0, budget.epochs)))
    of_tokens = verdict == "pre-train" and survey.vocabulary
    if of_tokens and per < TOO_FEW:
        found.append(f"a model of about {count(fits)} parameters, or {ratio(1 / per)} times the data")
    if of_tokens and per > TOO_MANY:
        found.append(
            f"a larger model: {count(budget.optimum)} parameters would use this compute better; a small one is cheaper to run"
        )
    if of_tokens and budget.epochs > MANY_EPOCHS:
        found.append(f"fewer steps: after {FEW_EPOCHS:.0f} epochs nearly everything is learned")
    if survey.documents.bytes > 0.05:
        found.append(f"remove copies: {survey.documents.bytes:.0%} of the bytes are in repeated documents")
    if coverage and coverage.spec.unknown >= UNKNOWN:
        found.append(f"another tokenizer: the spec's has no token for {coverage.spec.unknown:.1%} of the characters")
    if coverage and not coverage.named:
        found.append("name the tokenizer.json of models that you might start from (--tokenizer), so that coverage is measured")
    return found
