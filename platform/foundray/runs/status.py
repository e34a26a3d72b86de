"""Where a run stands, as text: for `foundray status`, in part also for `foundray watch`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Protocol

from foundray.records.schema import kinds
from foundray.records.traits import Trait
from foundray.runs.facts import Facts
from foundray.runs.run import Run
from foundray.wording.sentences import clock, dated, sentence
from foundray.wording.words import duration, plural

EVENTS = 12
"""Number of last events shown; events.jsonl has them all."""
NO_LINE = kinds(Trait.HIDDEN | Trait.ROUTINE | Trait.BEGINS)
"""Kinds of events without a line: other lines cover them."""


class Spent(Protocol):
    """Facts, or another account of how a run's time was spent."""

    @property
    def seconds(self) -> float: ...
    @property
    def goodput(self) -> float | None: ...


def standing(run: Run) -> str:
    stated = run.forecast()  # before the facts, which name what is damaged
    facts, spec, events = run.facts(), run.spec(), run.records("events.jsonl")
    unit = spec.objective.build().loss_unit
    done = f"step {facts.step:,} of {spec.train.steps:,}, {facts.tokens:,} tokens"
    lines = [("run", facts.run), ("state", f"{facts.state}, {done}"), *(("record", said) for said in facts.damage)]
    if facts.ended_early:
        lines.append(("ended", facts.ended_early))
    if start := spec.init_from:
        lines.append(("start", f"the weights of {start}, SHA-256 {start.weights_sha256}"))
    if origin := spec.branch_from:
        lines.append(("start", f"the state of {origin}, SHA-256 {origin.state_sha256}"))
    if facts.loss is not None:
        validation = "" if facts.val_loss is None else f", validation {facts.val_loss:.4f}"
        validation += f", perplexity {facts.perplexity:.4g}" if facts.perplexity else ""
        lines.append(("loss", f"{facts.loss:.4f}{validation} ({unit})"))
    if stated:
        lines.append(("forecast", forecast(stated, facts.val_loss if facts.state == "finished" else None)))
    if facts.tokens_per_s is not None:
        if facts.seconds_left is not None:
            lines.append(("left", f"about {duration(facts.seconds_left)} at the pace of the last steps"))
        lines.append(("speed", f"{facts.tokens_per_s:,.0f} tokens/s while stepping"))
    if facts.weights_sha256:
        lines.append(("weights", f"SHA-256 {facts.weights_sha256}"))
    if facts.checkpoint is not None:
        times = [f", {clock(e['time'])}" for e in events if e["event"] == "checkpoint" and e["step"] == facts.checkpoint]
        lines.append(("kept", f"step {facts.checkpoint:,}{''.join(times[-1:])}: the newest complete checkpoint"))
    lines += [("time", goodput(facts)), *_parts(facts)]
    lines.append(("faults", faults(facts.restarts, facts.steps_repeated)))
    lines += _table("workers", (dated(w, f"from step {w['step']:,}: {w['workers']}{_in_teams(w)}") for w in facts.worlds))
    lines += _table("events", event_lines(events, unit)[-EVENTS:])
    return "\n".join(f"{name:9} {text}" for name, text in lines)


def event_lines(events: Iterable[dict[str, Any]], loss_unit: str) -> list[str]:
    """One line per event that no other line covers."""
    return [dated(event, sentence(event, loss_unit)) for event in events if event["event"] not in NO_LINE]


def goodput(spent: Spent) -> str:
    """`312 s, of which 88.1 % on steps that count`."""
    share = "" if spent.goodput is None else f", of which {spent.goodput:.1%} on steps that count (goodput)"
    return f"{spent.seconds:,.0f} s{share}"


def faults(restarts: int, repeated: int) -> str:
    """`1 regrouping, 12 steps repeated`."""
    return f"{plural(restarts, 'regrouping')}, {plural(repeated, 'step')} repeated"


def forecast(stated: Mapping[str, Any], came: float | None) -> str:
    """A forecast of the validation loss, and the result once known."""
    low, high = stated["interval"]["low"], stated["interval"]["high"]
    verdict = "" if came is None else f"; the result is {came:.4f}, {'inside' if low <= came <= high else 'outside'}"
    return f"{stated['loss']:.4f} (90 %: {low:.4f} to {high:.4f}), made before it began{verdict}"


def spent_on(account: Mapping[str, float]) -> list[tuple[str, float, float]]:
    """(part, seconds, share) of the parts with time spent, largest first."""
    whole = sum(account.values()) or 1.0
    parts = sorted(account.items(), key=lambda item: -item[1])
    return [(part, seconds, seconds / whole) for part, seconds in parts if seconds]


def _parts(facts: Facts) -> list[tuple[str, str]]:
    return [("", f"{part:10} {seconds:9,.1f} s {share:6.1%}") for part, seconds, share in spent_on(facts.account)]


def _table(name: str, rows: Iterable[str]) -> list[tuple[str, str]]:
    return [("" if index else name, row) for index, row in enumerate(rows)]


def _in_teams(group: Mapping[str, Any]) -> str:
    return f" in teams of {group['team']}" if group["team"] > 1 else ""
