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

BECAUSE = {
    "architecture": "the architecture is new: no model of it exists to start from",
    "control": "full control over what the model has seen: of existing models that is seldom known",
    "research": "research into pre-training itself",
}
"""Reasons that no data can show."""
LITTLE = 1e8
"""New tokens below which a model knows little of the world: 10 to 100 million words teach grammar, and not much else (Zhang et
al. 2021, arXiv:2011.04946; Warstadt et al. 2023, BabyLM). Judgement for other data than text."""
TOO_FEW, TOO_MANY = 0.25, 4.0
"""Times the 20 tokens a parameter, beyond which it is said: there the same loss takes a sixth more compute, by Hoffmann's
law."""

Verdict = Literal["pre-train", "continue", "fine-tune"]
MEANING = {
    "pre-train": "train this model from scratch",
    "continue": "go on pre-training a model that exists, on this data (init_from)",
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


def advice(survey: Survey, budget: Budget, coverage: Coverage | None, because: Sequence[str]) -> Advice:
    """What follows from what was measured, and from what the user says."""
    reasons = [BECAUSE[name] for name in because]
    objections: list[str] = []
    best = coverage.best if coverage else None
    covers = best.covers if best else ""
    if best:
        (objections if covers == "covered" else reasons).append(of_coverage(best, survey.spaced))
    if not survey.of_text:
        reasons.append(f"the data is {survey.kind}: no language model covers it, though models of its own kind may exist")
    objections += _of_amount(survey, budget)
    verdict, why = _verdict(survey, budget, because, covers)
    return Advice(verdict, why, tuple(reasons), tuple(objections), tuple(_changes(survey, budget, coverage, verdict)))


def _verdict(survey: Survey, budget: Budget, because: Sequence[str], covers: str) -> tuple[Verdict, str]:
    much = budget.unique >= LITTLE
    if because:
        return "pre-train", f"because of {', '.join(because)}"
    if covers == "uncovered":
        return "pre-train", "no tokenizer that was named covers this data; or find a model whose tokenizer does"
    if not survey.of_text:
        return "pre-train", f"if no model of {survey.kind} that exists takes your data as it is; otherwise fine-tune that one"
    amount = f"{count(budget.unique)} new tokens are {'enough to move a model' if much else 'too few to begin with'}"
    if covers == "partly":
        return "continue", f"the tokenizer covers this data in part, and {amount}"
    told = "the tokenizer covers this data" if covers else "nothing here asks for a model of its own"
    return ("continue" if much else "fine-tune"), f"{told}, and {amount}"


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
    end = "your language is not covered" if one.covers == "uncovered" else "it is covered in part"
    return (
        f"{told}: {one.gap:.1f} times as many steps for the same text, and a {one.gap:.1f} times shorter context{lost}: {end}"
    )


def _of_amount(survey: Survey, budget: Budget) -> list[str]:
    found, unit = [], survey.unit
    per, wanted = budget.a_parameter, TOKENS_A_PARAMETER
    if per < TOO_FEW * wanted:
        once, often = (count(budget.size_for_data(epochs)) for epochs in (1, FEW_EPOCHS))
        found.append(
            f"too few {unit} for the size: {count(budget.worth)} new {unit} for {count(budget.parameters)} parameters are "
            f"{ratio(per)} {unit} a parameter, and about {wanted:.0f} are best; this data is enough for {once} parameters "
            f"({often} at {FEW_EPOCHS:.0f} epochs)"
        )
    if budget.unique < LITTLE and survey.of_text:
        found.append(f"{count(budget.unique)} new tokens teach a model grammar at best: it takes {count(LITTLE)} and more")
    if budget.epochs > FEW_EPOCHS:
        much = "nothing to speak of after the 16th" if budget.epochs > MANY_EPOCHS else "less and less after the 4th"
        found.append(f"{ratio(budget.epochs)} epochs: repeating is worth {much}")
    return found


def _changes(survey: Survey, budget: Budget, coverage: Coverage | None, verdict: Verdict) -> list[str]:
    found, per = [], budget.a_parameter / TOKENS_A_PARAMETER
    fits = budget.size_for_data(min(FEW_EPOCHS, max(1.0, budget.epochs)))
    if per < TOO_FEW and verdict == "pre-train":
        found.append(f"a model of about {count(fits)} parameters, or {ratio(1 / per)} times the data")
    if per > TOO_MANY and verdict == "pre-train":
        found.append(
            f"a larger model: {count(budget.optimum)} parameters would make more of this compute; a small one is cheaper to use"
        )
    if budget.epochs > MANY_EPOCHS and verdict == "pre-train":
        found.append(f"fewer steps: after {FEW_EPOCHS:.0f} epochs nearly all is learned that there is")
    if survey.documents.bytes > 0.05:
        found.append(f"leave out copies: {survey.documents.bytes:.0%} of the bytes are in documents that were there before")
    if coverage and not coverage.named:
        found.append("name the tokenizer.json of models that you might start from (--tokenizer): then coverage is measured")
    return found
