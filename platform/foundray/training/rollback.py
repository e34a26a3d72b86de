"""Rolling back past a loss spike: to the last state that is kept for that, and on from there with the data after the spike.

So did Chowdhery et al. (PaLM, 2022, section 5.1) by hand. Here the state returned to, and the data passed over, follow from
the losses alone, so that a run with roll-backs, too, gives the same bits for any number of workers.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any


@dataclass(frozen=True)
class RollBack:
    spike: int
    """The step whose loss was a spike, counted from 1."""
    to: int
    """Steps done in the state that the run went back to."""
    passed_over: int
    """Steps' worth of data that are passed over in all, from there on."""

    def facts(self) -> dict[str, int]:
        return asdict(self)


def roll_back(before: Sequence[RollBack], spike: int, every: int) -> RollBack:
    """What follows from a spike, where every `every`-th state is kept."""
    to = (spike - 1) // every * every
    return RollBack(spike, to, passed_over(before, spike - 1) + spike - to)


def passed_over(roll_backs: Sequence[RollBack], done: int) -> int:
    """How many steps' data the step that comes after `done` others is ahead of its number."""
    return next((r.passed_over for r in reversed(roll_backs) if r.to <= done), 0)


def next_turn(roll_backs: Sequence[RollBack], done: int) -> int | None:
    """The next step after which other data follow than the step's number says, for a run that goes on from `done`."""
    return next((r.to for r in roll_backs if r.to > done), None)


def appended(before: Sequence[RollBack], new: RollBack) -> tuple[RollBack, ...]:
    """With one more. Those to a later state are void: the run will not come by there with the same weights."""
    return (*(r for r in before if r.to <= new.to), new)


def recorded(events: Iterable[Mapping[str, Any]]) -> tuple[RollBack, ...]:
    """The roll-backs among a run's events."""
    found: tuple[RollBack, ...] = ()
    for event in events:
        if event["event"] == "rolled_back":
            found = appended(found, RollBack(*(event[field.name] for field in fields(RollBack))))
    return found
