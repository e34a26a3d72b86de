"""Checks of a run's events: roll-backs, starts of groups, checkpoints, and the end."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Any

from foundray.inspection.auditing.groups import SLACK_SECONDS, Placed
from foundray.records.schema import kinds
from foundray.records.traits import Trait
from foundray.runs.checkpoints import with_loss
from foundray.runs.extension import EXTENDED, specs_of
from foundray.spec import Spec
from foundray.training.evaluating.stopping import stops_at
from foundray.training.extending import agreement
from foundray.training.rollback import RollBack, roll_back, updated

Event = Mapping[str, Any]
LATE = kinds(Trait.LATE)
"""Kinds of events that may be recorded long after their time, behind later events."""
ENDS_WELL = kinds(Trait.ENDS_WELL)


def judge_events(events: Sequence[Event], lines: Sequence[Placed], spec: Spec) -> list[str]:
    """A sentence for each event that cannot have happened."""
    problems = list[str]()
    for before, after in pairwise(lines):
        if after.record["time"] < before.record["time"] - SLACK_SECONDS:
            problems.append(f"step {after.step} is recorded {_ago(before, after)} before step {before.step}")
    for first, second in pairwise(event for event in events if event["event"] not in LATE):
        if second["time"] < first["time"] - SLACK_SECONDS:
            problems.append(
                f"the event {second['event']} is recorded with an earlier time than {first['event']}, which it follows"
            )
    over = events and events[-1]["event"] in ENDS_WELL
    if over and lines and lines[-1].record["time"] > events[-1]["time"] + SLACK_SECONDS:
        problems.append(f"step {lines[-1].step} is recorded after the run's end")
    highest = max((line.step for line in lines), default=0)
    turns = tuple[RollBack, ...]()
    problems += _branched(events, spec)
    specs, losses = specs_of(spec, events), dict[int, float]()
    for event in events:
        losses = with_loss(losses, event)
        if event["event"] == EXTENDED:
            problems += [f"{EXTENDED}: {text}" for text in _extended(event, specs.pop(0), specs[0])]
        problems += [f"{event['event']}: {text}" for text in _judged(event, turns, highest, specs[0], losses)]
        turns = updated(turns, event)
    return problems


def _ago(before: Placed, after: Placed) -> str:
    return f"{before.record['time'] - after.record['time']:.0f} s"


def _judged(event: Event, turns: Sequence[RollBack], highest: int, spec: Spec, losses: Mapping[int, float]) -> Iterator[str]:
    match event["event"]:
        case "rolled_back":
            yield from _rolled_back(event, turns, spec)
        case "workers_started":
            if not 0 <= event["step"] <= highest or event["workers"] < 1:
                yield f"{event['workers']} workers cannot have begun after step {event['step']}"
        case "checkpoint" | "evaluated":
            if not 0 < event["step"] <= highest:
                yield f"no step {event['step']} is recorded"
        case "finished":
            end = stops_at(spec.train, losses) or spec.train.steps
            if event["step"] != end or highest < end:
                yield f"after step {event['step']}, but the run has {end} steps and the step log {highest}"
        case "stopped":
            if not (0 <= event["checkpoint"] <= highest and 0 <= event["step"] <= highest):
                yield f"after step {event['step']}, with a checkpoint of step {event['checkpoint']}"


def _branched(events: Sequence[Event], spec: Spec) -> list[str]:
    """Compare the record of where the run branched from another with its spec."""
    found = [(event["step"], event["state_sha256"]) for event in events if event["event"] == "branched"]
    origin = spec.branch_from
    if found == ([(origin.step, origin.state_sha256)] if origin else []):
        return []
    recorded = ", ".join(f"step {step} of the state {sha[:16]}" for step, sha in found) or "nothing"
    return [f"branched: {recorded} is recorded, and the spec has {origin or 'no branch_from'}"]


def _extended(event: Event, before: Spec, after: Spec) -> Iterator[str]:
    same, _ = agreement(before, after)
    if before.train.steps >= after.train.steps or event["fingerprint"] != before.fingerprint():
        yield f"to {after.train.steps} steps from {before.train.steps}, whose spec has the fingerprint {before.fingerprint()}"
    if event["trusted"] != min(same, event["step"]) or not 0 <= event["to"] <= event["trusted"]:
        yield f"from step {event['to']} of {event['step']}, but the two runs have the first {same} steps in common"


def _rolled_back(event: Event, turns: Sequence[RollBack], spec: Spec) -> Iterator[str]:
    made = RollBack(event["spike"], event["to"], event["passed_over"])
    if not spec.guard.roll_back:
        yield "guard.roll_back is not set"
        return
    due = roll_back(turns, event["spike"], spec.guard.roll_back)
    if made != due or event["step"] != made.spike:
        found = f"from step {made.spike} to {made.to}, with a data offset of {made.passed_over} steps"
        yield f"{found}; the rule gives step {due.to} and an offset of {due.passed_over}"
