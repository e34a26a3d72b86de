"""A plan as a page: the verdict first, then its basis, each number beside its formula."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from foundray.planning.advice import MEANING
from foundray.planning.budget import FEW_EPOCHS, TOKENS_PER_PARAMETER
from foundray.planning.cost import MFU
from foundray.planning.coverage import Compared, Fertility
from foundray.planning.teams_text import of_teams
from foundray.planning.words import about, count, flops, ratio, three
from foundray.tuning.search.table import aligned
from foundray.wording.sentences import plain
from foundray.wording.words import size

if TYPE_CHECKING:
    from foundray.planning import Plan
    from foundray.planning.cost import Estimate

WIDTH = 100
"""Columns of a page."""
NAMES = 17
"""Columns for the names of facts."""
REPEATED_LINES = 0.01
"""Fraction of repeated long lines, by bytes, above which the page says so."""
SHORT_TOKENS = 2.5
"""Bytes per token below which rules fitted to tokens of about four bytes promise too much: judgement."""


def page(plan: Plan) -> str:
    """The page as text."""
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
    """Every number of the page, and the inputs of its formulas."""
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
    advice = plan.advice
    lines = _wrapped(f"{advice.verdict}: {MEANING[advice.verdict]}", advice.why)
    for name, texts in (("for pre-training", advice.reasons), ("against", advice.objections), ("better", advice.changes)):
        for text in texts:
            lines += _fact(name, text)
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
    if survey.lines.bytes >= REPEATED_LINES:
        lines += _fact("repeated lines", f"{survey.lines.bytes:.1%} of the bytes of long lines are in repeated ones")
    if text and not survey.spaced:
        lines += _fact("words", "this script puts no spaces between them: tokens are given per character below")
    if survey.sampled:
        read, every = (sum(getattr(s, name) for s in survey.sources) for name in ("files_read", "files"))
        lines += _fact(
            "sample",
            f"{read:,} of {every:,} files, chosen by the seed: numbers are extrapolated by bytes, copies counted in the sample",
        )
    if survey.prepared:
        lines += _fact("prepared", f"tokens, documents and bytes are exact, from {plain(survey.prepared)}")
    elif any(source.tokens_from == "sample" for source in survey.sources):
        lines += _fact("tokens", "estimated: bytes times the tokens per byte of a tokenizer trained on a sample")
    if worst := next((source.bad for source in survey.sources if source.bad), ""):
        lines += _fact("bad rows", f"{_over(plan)}the first: {plain(worst)}")
    return lines + (_fact("kept", f"in {plain(survey.kept)}, for the next plan") if survey.kept else [])


def _over(plan: Plan) -> str:
    """The limit on bad rows at which `prepare` would stop, if any."""
    data, counts = plan.spec.data, [source.counts for source in plan.survey.sources]
    if sum(one.bad_rows for one in counts) > data.max_bad_rows:
        return f"more than data.max_bad_rows of {data.max_bad_rows:,}: prepare would stop; "
    if any(one.bad_rows > data.max_bad_share * (one.bad_rows + one.documents) for one in counts):
        return f"a larger part of a source than data.max_bad_share of {data.max_bad_share:g}: prepare would stop; "
    return ""


def _coverage(plan: Plan) -> list[str]:
    if not (found := plan.coverage):
        return []
    spaced = found.spaced
    rows = [["", "ids", "tokens per word" if spaced else "tokens per character", "tokens per byte", "no token", "of its own"]]

    def row(one: Fertility, against: Compared | None = None) -> list[str]:
        first = one.per_word if spaced else one.per_character
        gap = f"{against.gap:.2f} times" if against else ""
        return [one.name, f"{one.vocabulary:,}", f"{first:.2f}", f"{one.per_byte:.3f}", _share(one.unknown), gap]

    rows.append(row(found.spec))
    owns = list(dict.fromkeys(one.own for one in found.named))
    rows += [row(one.named, one) for one in found.named] + [row(own) for own in owns]
    lost = _lost([found.spec, *(one.named for one in found.named)])
    if not found.named:
        lines = [*_left([cells[:-1] for cells in rows]), *lost]
        return [*lines, *_fact("", "measured on held-out text; no other tokenizer was named")]
    how = f"all on held-out text; this data's own is trained on {size(found.trained_on)} of the rest, with as many ids"
    return [*_left(rows), *lost, *_fact("measured", f"{how}, or as many as it supports")]


def _lost(tokenizers: Sequence[Fertility]) -> list[str]:
    """What they have no tokens for, and what they drop on purpose."""
    lines = []
    for one in tokenizers:
        if one.unknown:
            lines += _fact("no token", f"{one.name}: {_share(one.unknown)} of the characters have no token")
        if one.remarks:
            lines += _fact("not kept", f"{one.name}: {'; '.join(one.remarks)}")
    return lines


def _share(part: float) -> str:
    """`1.30%`, `0%`, `below 0.01%`."""
    return "0%" if not part else f"{part:.2%}" if part >= 1e-4 else "below 0.01%"


def _budget(plan: Plan) -> list[str]:
    found, spec, unit = plan.budget, plan.spec, plan.survey.unit
    lines = _fact("seen", f"{spec.train.steps:,} steps x {spec.tokens_per_step:,} = {count(found.tokens)} {unit}")
    if len(found.sources) > 1:
        rows = [["", unit, "seen", "epochs", "worth"]]
        for one in found.sources:
            rows.append([_short(one.path), count(one.training), count(one.seen), ratio(one.epochs), count(one.worth)])
        lines += _left(rows)
    else:
        lines += _fact("epochs", f"{ratio(found.epochs)}, of {count(found.unique)} distinct {unit} to train on")
    compute = flops(found.flops)
    if not plan.survey.vocabulary:
        lines += _fact("size", f"{count(found.parameters)} parameters; {compute}")
        why = "values are augmented, and read hundreds of times"
        return lines + _fact("", f"the rules for tokens (20 per parameter, 4 epochs) do not apply here: {why}")
    formula = "U + 15.4 U (1 - exp(-R / 15.4)), U distinct tokens, repeated R times (Muennighoff et al. 2023)"
    lines += _fact("worth", f"{count(found.worth)} new tokens: {formula}")
    n = f"{count(found.parameters)} parameters (N: matrices, without the embedding table)"
    lines += _fact(
        "size",
        f"{n}, so {ratio(found.tokens_per_parameter)} new tokens per parameter; about {TOKENS_PER_PARAMETER:.0f} are best",
    )
    once, repeated = (count(found.size_for_data(epochs)) for epochs in (1, FEW_EPOCHS))
    lines += _fact(
        "best for the data", f"{once} parameters, {repeated} at {FEW_EPOCHS:.0f} epochs: D / 20 (Hoffmann et al. 2022)"
    )
    formula = "sqrt(C / 120)" if found.law.startswith("Hoffmann") else found.law
    lines += _fact("for the compute", f"{count(found.optimum)} parameters, given unlimited new data: {formula}, C = {compute}")
    per_token = plan.survey.counts.bytes / max(1.0, plan.survey.counts.tokens)
    if not plan.survey.of_text:
        lines += _fact("", "the rules were fitted to text: a rough guide here")
    elif per_token < SHORT_TOKENS:
        lines += _fact(
            "", f"bytes per token: {three(per_token)} here, about 4 in the papers, so the rules promise too much here"
        )
    return lines


def _machines(plan: Plan) -> list[str]:
    given, estimates = plan.assumptions, plan.estimates
    priced = any(estimate.cost is not None for estimate in estimates)
    rows = [["", "time", "a step", *(["cost"] if priced else []), "memory", "of", ""]]
    for one in estimates:
        cost = [f"{one.cost:,.2f}" if one.cost is not None else ""] if priced else []
        held = one.memory if one.fits == "fits" else one.recomputed
        said = {"recomputing": _recomputing(plan), "too few": f"too few for a team of {one.team}"}
        row = [one.fleet.label, about(one.seconds), about(one.step_seconds), *cost, size(held.total)]
        if one.fits == "too few":  # they do nothing
            row[1:-1] = [""] * len(row[1:-1])
        rows.append([*row, size(one.fleet.memory), said.get(one.fits, one.fits)])
    lines = _left(rows)
    if own := plan.measured:
        speed = f"{own.tokens_per_s:,.0f} {plan.survey.unit}/s"
        lines += _fact("measured", f"this run did {speed}, so {about(own.seconds)} for all of it")
    peaks = ", ".join(f"{one.fleet.name} {three(one.fleet.peak / 1e12)}" for one in estimates)
    mfu = f"MFU {given.mfu:g}" + (" is assumed" if given.mfu == MFU else "")
    stated = f"{flops(plan.budget.flops)} / (count x peak x MFU), peak in TFLOP/s: {peaks}; {mfu}"
    if any(one.recomputing for one in estimates):
        stated += "; a third more if activations are recomputed"
    if any(one.starting for one in estimates):
        stated += "; where starting kernels takes longer (about 1 ms per layer and micro-batch, 20 ms per step), that"
    lines += _fact("time", stated)
    for one in estimates:
        for name, text in of_teams(one, plan.spec.train.micro_batches):
            lines += _fact(name, text)
    lines += _fact("memory", _memory(plan, estimates[-1]))
    if priced:
        lines += _fact("cost", "hours x count x price, in the currency of the price, without failures")
    return lines


def _recomputing(plan: Plan) -> str:
    """How a run fits whose activations are recomputed: by itself, or once its spec asks for it."""
    by_itself = plan.spec.train.recompute in ("auto", "full")
    return "fits, recomputing activations" if by_itself else "fits with train.recompute: full"


def _memory(plan: Plan, one: Estimate) -> str:
    held, train = one.memory, plan.spec.train
    if one.fits != "fits":
        held, train = one.recomputed, train.model_copy(update={"recompute": "full"})
    estimated = ", ".join(["estimated", *train.saving])
    parts = [
        (held.weights, "weights"),
        (held.gradients, "gradient"),
        (held.summing, "sum"),
        (held.optimizer, "optimizer"),
        (held.gathered, "a unit that its team has gathered"),
        (held.cast + held.activations + held.outputs, f"activations of a micro-batch ({estimated})"),
        (held.reserved, "reserved (assumed)"),
    ]
    total = " + ".join(f"{size(amount)} {what}" for amount, what in parts if amount)
    return f"of each {one.fleet.name}: {total}, for {train.micro_batch_size} samples at once"


def _checkpoints(plan: Plan) -> list[str]:
    given, steps = plan.assumptions, plan.spec.train.steps
    rows = [["", "machines", "checkpoint", "costs", "best every", "", "goodput"]]
    for one in plan.estimates:
        kept = one.checkpoints
        every = "longer than the run" if kept.steps >= steps else "1 step" if kept.steps == 1 else f"{kept.steps:,} steps"
        cells = [about(kept.seconds), about(kept.interval), every, f"{kept.goodput:.2%}"]
        rows.append([one.fleet.label, str(kept.machines), size(kept.bytes), *cells])
    lines = _left(rows)
    rule = f"sqrt(2 x cost x time between failures) (Young 1974, Daly 2006); {given.mtbf_hours:,.0f} h between failures of a"
    lines += _fact("best", f"{rule} machine, {three(given.seconds_a_gigabyte)} s/GB{given.assumed}")
    failures = (
        "if every failure went back to a checkpoint. In Foundray another machine's memory holds a replica of every state shard:"
    )
    return lines + _fact("goodput", f"{failures} checkpoints are for the loss of all at once")


def _short(path: str) -> str:
    path = plain(path)
    return path if len(path) <= 40 else f"...{path[-37:]}"


def _left(rows: Sequence[Sequence[str]]) -> list[str]:
    """A table with a left-aligned first column."""
    wide = max(len(row[0]) for row in rows)
    names = [row[0].ljust(wide) for row in rows]
    body = aligned([row[1:] for row in rows]).splitlines()
    return [f"  {name}  {line}".rstrip() for name, line in zip(names, body, strict=True)]


def _fact(name: str, text: str) -> list[str]:
    begin = f"  {name:{NAMES}}  "
    return textwrap.wrap(text, WIDTH, initial_indent=begin, subsequent_indent=" " * len(begin), break_on_hyphens=False)


def _wrapped(first: str, second: str) -> list[str]:
    whole = f"{first} - {second}"
    return (
        [whole] if len(whole) <= WIDTH else [first, *textwrap.wrap(second, WIDTH, initial_indent="  ", subsequent_indent="  ")]
    )
