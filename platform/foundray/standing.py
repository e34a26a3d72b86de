"""Where a run stands, for people: what `foundray status` shows."""

from __future__ import annotations

import time
from collections.abc import Iterable
from typing import Any

from foundray.run import Facts, Run

EVENTS = 12
"""The last events that are shown; events.jsonl has them all."""
QUIET = {"command", "places", "member_ready", "workers_started", "evaluated"}
"""Kinds of events that are not shown: they tell nothing that is not told otherwise."""


def standing(run: Run) -> str:
    facts, spec = run.facts(), run.spec()
    done = f"step {facts.step:,} of {spec.train.steps:,}, {facts.tokens:,} tokens"
    lines = [("run", facts.run), ("state", f"{facts.state}, {done}")]
    if facts.loss is not None:
        validation = "" if facts.val_loss is None else f", validation {facts.val_loss:.4f}"
        lines.append(("loss", f"{facts.loss:.4f}{validation} (nats a token)"))
    if stated := run.forecast():
        low, high = stated["interval"]["low"], stated["interval"]["high"]
        came = facts.state == "finished" and facts.val_loss is not None
        verdict = f"; {facts.val_loss:.4f} came, {'inside' if low <= facts.val_loss <= high else 'outside'}" if came else ""
        lines.append(("forecast", f"{stated['loss']:.4f} (90 %: {low:.4f} to {high:.4f}), stated before it began{verdict}"))
    if facts.tokens_per_s is not None:
        lines.append(("speed", f"{facts.tokens_per_s:,.0f} tokens/s while stepping"))
    if facts.weights_sha256:
        lines.append(("weights", f"SHA-256 {facts.weights_sha256}"))
    lines += [("time", goodput(facts)), *_parts(facts)]
    lines.append(("faults", f"{facts.restarts} regroupings, {facts.steps_repeated} steps repeated"))
    lines += _table("workers", (f"{_clock(w['time'])}  step {w['step']:>7,}  {w['workers']}" for w in facts.worlds))
    events = [event for event in run.records("events.jsonl") if event["event"] not in QUIET]
    lines += _table("events", map(_line, events[-EVENTS:]))
    return "\n".join(f"{name:9} {text}" for name, text in lines)


def goodput(facts: Facts) -> str:
    """`312 s, of which 88.1 % on steps that count`."""
    share = "" if facts.goodput is None else f", of which {facts.goodput:.1%} on steps that count (goodput)"
    return f"{facts.seconds:,.0f} s{share}"


def _parts(facts: Facts) -> list[tuple[str, str]]:
    whole = facts.seconds or 1.0
    parts = sorted(facts.account.items(), key=lambda item: -item[1])
    return [("", f"{name:10} {seconds:9,.1f} s {seconds / whole:6.1%}") for name, seconds in parts if seconds]


def _table(name: str, rows: Iterable[str]) -> list[tuple[str, str]]:
    return [("" if index else name, row) for index, row in enumerate(rows)]


def _line(event: dict[str, Any]) -> str:
    told = {name: value for name, value in event.items() if name not in ("time", "event", "step")}
    at = f"step {event['step']:>7,}" if "step" in event else " " * 12
    return f"{_clock(event['time'])}  {at}  {event['event']} {', '.join(f'{k} {v}' for k, v in told.items())}"[:160].rstrip()


def _clock(seconds: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(seconds))
