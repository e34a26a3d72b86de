"""A plan as a page: the verdict first, then what it rests on, each number beside its formula."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from foundray.planning.advice import MEANING
from foundray.planning.budget import FEW_EPOCHS, TOKENS_A_PARAMETER
from foundray.planning.coverage import Compared, Fertility
from foundray.planning.words import count, duration, flops, ratio, size, three
from foundray.sentences import plain
from foundray.tuning.table import aligned

if TYPE_CHECKING:
    from foundray.planning import Plan

WIDTH = 100
"""Columns of a page."""


def page(plan: Plan) -> str:
    """The whole page."""
    sections = [
        ("", _verdict(plan)),
        ("data", _data(plan)),
        ("coverage", _coverage(plan)),
        ("budget", _budget(plan)),
        ("time, memory and cost", _machines(plan)),
        ("checkpoints", _checkpoints(plan)),
    ]
    return "\n\n".join("\n".join([title.upper()] * bool(title) + lines) for title, lines in sections if lines)


def as_json(plan: Plan) -> dict[str, Any]:
    """Every number of the page, and what goes into its formulas."""
    return {
        "verdict": plan.advice.verdict,
        "advice": asdict(plan.advice),
        "data": plan.survey.to_dict(),
        "coverage": plan.coverage.to_dict() if plan.coverage else None,
        "budget": plan.budget.to_dict(),
        "machines": [estimate.to_dict() for estimate in plan.estimates],
        "measured": asdict(plan.measured) if plan.measured else None,
        "assumptions": asdict(plan.assumptions),
    }


def _verdict(plan: Plan) -> list[str]:
    said = plan.advice
    lines = _wrapped(f"{said.verdict}: {MEANING[said.verdict]}", said.why, " - ")
    for name, texts in (("for pre-training", said.reasons), ("against", said.objections), ("better", said.changes)):
        for text in texts:
            lines += _item(text, f"  {name:16}  ")
            name = ""
    return lines


def _data(plan: Plan) -> list[str]:
    survey, unit = plan.survey, plan.survey.unit
    text = survey.of_text
    head = [
        "",
        "documents" if survey.vocabulary else "samples",
        "bytes",
        *(["words"] if text else []),
        unit,
        "copies",
        "bad rows",
    ]
    rows = [head]
    whole = [("all", survey.counts, survey.documents)] if len(survey.sources) > 1 else []
    for name, counts, documents in [*((_short(s.path), s.counts, s.documents) for s in survey.sources), *whole]:
        words = [count(counts.words)] if text else []
        row = [name, f"{counts.documents:,.0f}", size(counts.bytes), *words, count(counts.tokens), f"{documents.bytes:.1%}"]
        rows.append([*row, f"{counts.bad_rows:,.0f}"])
    lines = _left(rows)
    if survey.lines.bytes >= 0.01:
        lines += _item(f"{survey.lines.bytes:.1%} of the bytes of long lines are in lines that were there before")
    if text and not survey.spaced:
        lines += _item("words between spaces say little for this script: tokens are counted by character below")
    if survey.sampled:
        read, every = (sum(getattr(s, name) for s in survey.sources) for name in ("files_read", "files"))
        lines += _item(
            f"from a sample of {read:,} of {every:,} files, taken by the seed: numbers of all are extrapolated by bytes"
        )
    if survey.prepared:
        lines += _item(f"tokens, documents and bytes are those of the prepared data in {plain(survey.prepared)}")
    elif any(source.tokens_from == "sample" for source in survey.sources):
        lines += _item(
            "tokens are estimated: bytes times the tokens a byte that a tokenizer makes which was trained on a sample"
        )
    worst = next((source.bad for source in survey.sources if source.bad), "")
    if worst:
        over = survey.counts.bad_rows > plan.spec.data.max_bad_rows
        much = f", more than data.max_bad_rows of {plan.spec.data.max_bad_rows}: prepare would stop" if over else ""
        lines += _item(f"bad rows{much}; the first: {plain(worst)}")
    if survey.kept:
        lines += _item(f"what was read is kept in {plain(survey.kept)}")
    return lines


def _coverage(plan: Plan) -> list[str]:
    if not (found := plan.coverage):
        return []
    spaced = found.spaced
    rows = [["", "ids", "tokens a word" if spaced else "tokens a character", "tokens a byte", "unknown", "of its own"]]

    def row(one: Fertility, against: Compared | None = None) -> list[str]:
        first = one.a_word if spaced else one.a_character
        gap = f"{against.gap:.2f} times" if against else ""
        return [one.name, f"{one.vocabulary:,}", f"{first:.2f}", f"{one.a_byte:.3f}", f"{one.unknown:.2%}", gap]

    rows.append(row(found.spec))
    owns = list(dict.fromkeys(one.own for one in found.named))
    rows += [row(one.named, one) for one in found.named] + [row(own) for own in owns]
    if not found.named:
        rows = [cells[:-1] for cells in rows]
        return [*_left(rows), *_item("no other tokenizer was named: whether an existing model covers this data is not known")]
    lines = _left(rows)
    lines += _item(f"its own: trained on {size(found.trained_on)} of the training part; all are measured on the held-out part")
    return lines


def _budget(plan: Plan) -> list[str]:
    found, spec, unit = plan.budget, plan.spec, plan.survey.unit
    lines = _item(
        f"{spec.train.steps:,} steps x {spec.tokens_per_step:,} = {count(found.tokens)} {unit}, of {count(found.unique)} "
        f"different ones to train on; worth {count(found.worth)} new ones"
    )
    if len(found.sources) > 1:
        rows = [["", unit, "seen", "epochs", "worth"]]
        for one in found.sources:
            rows.append([_short(one.path), count(one.training), count(one.seen), ratio(one.epochs), count(one.worth)])
        lines += _left(rows)
    else:
        lines += _item(f"{ratio(found.epochs)} epochs")
    lines += _item("worth U + U x 15.4 x (1 - exp(-R / 15.4)), U different ones, repeated R times (Muennighoff et al. 2023)")
    n = f"{count(found.parameters)} parameters (N: matrices, without the table of embeddings)"
    lines += _item(f"size {n}: {ratio(found.a_parameter)} new {unit} each; best is about {TOKENS_A_PARAMETER:.0f}")
    lines += _item(
        f"for this data {count(found.size_for_data(1))} parameters, or {count(found.size_for_data(FEW_EPOCHS))} at "
        f"{FEW_EPOCHS:.0f} epochs; D / 20 (Hoffmann et al. 2022)"
    )
    formula = "sqrt(C / 120), " if found.law.startswith("Hoffmann") else ""
    lines += _item(f"for this compute {count(found.optimum)} parameters, C = {flops(found.flops)}; {formula}{found.law}")
    if not plan.survey.of_text:
        lines += _item("both rules were fitted to text: a rough guide here")
    return lines


def _machines(plan: Plan) -> list[str]:
    given, estimates = plan.assumptions, plan.estimates
    priced = any(estimate.cost is not None for estimate in estimates)
    rows = [["", "time", "a step", *(["cost"] if priced else []), "memory each", "of", ""]]
    for one in estimates:
        cost = [f"{one.cost:,.2f}" if one.cost is not None else ""] if priced else []
        held = one.recomputed if one.fits in ("recomputing", "too large") else one.memory
        of = size(one.fleet.memory) if one.fleet.memory else ""
        fits = {"recomputing": "fits, recomputing activations"}.get(one.fits, one.fits)
        rows.append([one.fleet.label, duration(one.seconds), duration(one.step_seconds), *cost, size(held.total), of, fits])
    lines = _left(rows)
    if own := plan.measured:
        speed = f"{own.tokens_per_s:,.0f} {plan.survey.unit}/s"
        lines += _item(f"measured: this run did {speed}, so {duration(own.seconds)} for all of it")
    first = estimates[0]
    lines += _item(
        f"time {flops(plan.budget.flops)} / (count x peak x MFU), peak {first.fleet.peak:.3g} FLOP/s of a {first.fleet.name}; "
        f"MFU {given.mfu:g} is assumed: small models and short contexts reach less"
    )
    held = first.recomputed if first.fits in ("recomputing", "too large") else first.memory
    parts = [
        (held.weights, "weights"),
        (held.gradients, "gradient"),
        (held.summing, "sum"),
        (held.optimizer, "optimizer"),
        (held.cast + held.activations + held.outputs, "activations (estimated)"),
        (held.reserved, "reserved"),
    ]
    told = " + ".join(f"{size(held)} {what}" for held, what in parts if held)
    lines += _item(f"memory of a {first.fleet.name}: {told}, for {plan.spec.train.micro_batch_size} samples at once")
    if priced:
        lines += _item("cost hours x count x price, in the money of the price, for a run without failures")
    return lines


def _checkpoints(plan: Plan) -> list[str]:
    given, rows = plan.assumptions, [["", "machines", "checkpoint", "costs", "best every", "", "goodput"]]
    for one in plan.estimates:
        kept = one.checkpoints
        every = [duration(kept.interval), f"{kept.steps:,} steps"]
        told = f"{kept.goodput:.2%}"
        rows.append([one.fleet.label, str(kept.machines), size(kept.bytes), duration(kept.seconds), *every, told])
    lines = _left(rows)
    lines += _item(
        f"sqrt(2 x cost x time between failures) (Young 1974, Daly 2006), {given.mtbf_hours:,.0f} h between failures of a "
        f"machine, {three(given.seconds_a_gigabyte)} s/GB a machine: assumed unless given (--mtbf, --seconds-per-gb)"
    )
    lines += _item(
        "goodput if every failure went back to a checkpoint; in Foundray each machine's state has a copy in another's memory: "
        "checkpoints are for the loss of everything at once"
    )
    return lines


def _short(path: str) -> str:
    path = plain(path)
    return path if len(path) <= 40 else f"...{path[-37:]}"


def _left(rows: Sequence[Sequence[str]]) -> list[str]:
    """A table whose first column begins at the left."""
    wide = max(len(row[0]) for row in rows)
    names = [row[0].ljust(wide) for row in rows]
    body = aligned([row[1:] for row in rows]).splitlines()
    return [f"  {name}  {line}".rstrip() for name, line in zip(names, body, strict=True)]


def _item(text: str, begin: str = "  ") -> list[str]:
    return textwrap.wrap(text, WIDTH, initial_indent=begin, subsequent_indent=" " * len(begin), break_on_hyphens=False)


def _wrapped(first: str, second: str, between: str) -> list[str]:
    whole = f"{first}{between}{second}"
    return [whole] if len(whole) <= WIDTH else [first, *_item(second)]
