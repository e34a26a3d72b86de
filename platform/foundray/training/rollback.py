"""Rolling back past a loss spike: to the last state kept for that, continuing from there with the data after the spike.

Chowdhery et al. (PaLM, 2022, section 5.1) did so by hand. Here the state and the data offset follow from the losses alone, so
that a run with roll-backs, too, gives the same bits for any number of workers.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any

from foundray.runs.lineage import counted


@dataclass(frozen=True)
class RollBack:
    spike: int
    """Step whose loss was a spike, counted from 1."""
    to: int
    """Steps done in the state that the run returned to."""
    passed_over: int
    """The data offset from there on: steps by which the data run ahead."""

    def facts(self) -> dict[str, int]:
        return asdict(self)


def roll_back(before: Sequence[RollBack], spike: int, every: int) -> RollBack:
    """The roll-back that follows a spike, if every `every`-th state is kept."""
    to = (spike - 1) // every * every
    return RollBack(spike, to, passed_over(before, spike - 1) + spike - to)


def passed_over(roll_backs: Sequence[RollBack], done: int) -> int:
    """The data offset of the step after `done` others."""
    return next((r.passed_over for r in reversed(roll_backs) if r.to <= done), 0)


def next_turn(roll_backs: Sequence[RollBack], done: int) -> int | None:
    """The next step after which the data offset changes, for a run that continues from `done`; None if it stays."""
    return next((r.to for r in roll_backs if r.to > done), None)


def appended(before: Sequence[RollBack], new: RollBack) -> tuple[RollBack, ...]:
    """Add a roll-back. Earlier ones to a later state become void: the run will not reach it with the same weights."""
    return (*(r for r in before if r.to <= new.to), new)


def updated(before: Sequence[RollBack], event: Mapping[str, Any]) -> tuple[RollBack, ...]:
    """The roll-backs in force after one more event.

    A loss of trust voids those decided since the last step trusted, and an extension those since the last that stays valid.
    """
    if event["event"] == "rolled_back":
        return appended(before, RollBack(*(event[field.name] for field in fields(RollBack))))
    if event["event"] in ("left_out", "extended") and event.get("cut"):
        return trusted(before, event["trusted"])
    if event["event"] == "branched" and event["passed_over"]:  # the data offset that the run branched with
        return (RollBack(0, 0, event["passed_over"]),)
    return tuple(before)


def trusted(before: Sequence[RollBack], step: int) -> tuple[RollBack, ...]:
    """The roll-backs that remain if nothing computed after `step` is trusted: the spike may have been an error."""
    return tuple(r for r in before if r.spike <= step)


def undone_to(before: Sequence[RollBack], step: int) -> int:
    """The last step whose state stays usable then: none that was made after a roll-back that is void."""
    return min([step, *(r.to for r in before if r.spike > step)])


def recorded(events: Iterable[Mapping[str, Any]]) -> tuple[RollBack, ...]:
    """Read the roll-backs in force from a run's events."""
    found: tuple[RollBack, ...] = ()
    for event in counted(events):
        found = updated(found, event)
    return found
