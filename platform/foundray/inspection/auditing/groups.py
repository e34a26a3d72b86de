"""Which group of workers did which recorded step: the two logs put together.

A group that began from the state after step s does s + 1, s + 2, ...; the next one begins at the step that was reached, or at
an earlier one. The two logs' times may differ by how long records took to the driver, so that a record belongs to the group
that it fits, of those that were there about then.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from foundray.records.schema import kinds
from foundray.records.traits import Trait
from foundray.training.rollback import RollBack, appended, passed_over, recorded

CUTS = kinds(Trait.CUTS)
"""Kinds of events that begin a new lineage."""
SLACK_SECONDS = 10.0
"""By so much the times of two records may be in another order than what they tell of: a record comes with its age, but not
with the time that it took to the driver."""


@dataclass(frozen=True)
class Group:
    time: float
    start: int
    """Steps done in the state that it began from."""
    workers: int
    roll_backs: tuple[RollBack, ...]
    """That had been made when it began."""
    cuts: int
    """Roll-backs and losses of trust until then."""
    broke: bool = False
    """Whether a group broke between its beginning and the next one's that is recorded."""


@dataclass(frozen=True)
class Placed:
    """A step's record, and what is known of it otherwise."""

    record: Mapping[str, Any]
    step: int
    group: Group
    passed_over: int
    """Steps' worth of data that its own are ahead of its number."""

    @property
    def position(self) -> int:
        """Where its data begin in the order, in steps' worth of data."""
        return self.step - 1 + self.passed_over


def groups_of(events: Sequence[Mapping[str, Any]]) -> list[Group]:
    """In the order in which they began."""
    found, turns = list[Group](), tuple[RollBack, ...]()
    cuts = 0
    for event in events:
        cuts += event["event"] in CUTS
        if event["event"] == "rolled_back":
            turns = appended(turns, *recorded([event]))
        elif event["event"] == "workers_started":
            found.append(Group(event["time"], event["step"], event["workers"], turns, cuts))
        elif event["event"] == "group_broken" and found:
            found[-1] = replace(found[-1], broke=True)
    return found


def placed(metrics: Sequence[Mapping[str, Any]], groups: Sequence[Group]) -> tuple[list[Placed], list[str]]:
    """Every record with its group, and a sentence for each that no group can have made in its place."""
    if not groups:
        return [], ["no group of workers is recorded that could have done a step"]
    found, problems, groups = list[Placed](), list[str](), list(groups)
    at, done, seen = 0, groups[0].start, 0.0
    for index, record in enumerate(metrics):
        step = record["step"]
        near = _near(groups, at, max(seen, record["time"]))
        reached = {one: done if one == at else groups[one].start for one in near}
        fitting = [one for one in near if (step, record["workers"]) == (reached[one] + 1, groups[one].workers)]
        if fitting:
            at, done = fitting[0], step
        elif step == done + 1 and _untold(metrics, index, groups[at : at + 2]):
            groups.insert(at + 1, replace(groups[at], time=record["time"], start=done, workers=record["workers"]))
            at, done = at + 1, step
        else:
            follows = index + 1 < len(metrics) and metrics[index + 1]["step"] == step + 1
            problems += _misfits(record, groups[at], done + 1, follows)
            done = step if follows else max(done, min(step, done + 1))
            groups[at] = replace(groups[at], broke=False)  # nor is this looked for again: it may take a walk to the log's end
        seen = record["time"]
        found.append(Placed(record, step, groups[at], passed_over(groups[at].roll_backs, step - 1)))
    return found, problems


def _near(groups: Sequence[Group], at: int, time: float) -> list[int]:
    """From the `at`-th group on, those that there were about then: first the one that the time says."""
    there = [one for one in range(at, len(groups)) if one == at or groups[one].time <= time + SLACK_SECONDS]
    said = max((one for one in there if groups[one].time <= time), default=at)
    return sorted(there, key=lambda one: (one != said, one > said, abs(one - said)))


def _untold(metrics: Sequence[Mapping[str, Any]], index: int, groups: Sequence[Group]) -> bool:
    """Whether a step, and those after it, can be of a group between these two whose own beginning is not recorded.

    It was lost with the group's rank 0, who tells of it; the steps came through, for the others told of them once more. Then
    they are there until the next group's first step, and a group broke before that.
    """
    if len(groups) < 2 or not groups[0].broke:
        return False
    first, following = metrics[index], groups[1]
    for ahead in range(len(metrics) - index):
        step, workers = metrics[index + ahead]["step"], metrics[index + ahead]["workers"]
        if ahead and (step, workers) == (following.start + 1, following.workers):
            return True
        if (step, workers) != (first["step"] + ahead, first["workers"]):
            return False
    return False


def _misfits(record: Mapping[str, Any], group: Group, expected: int, follows: bool) -> list[str]:
    """Why the record is not that of the step expected; `follows` says whether the next record is that of the step after it."""
    step = record["step"]
    if step == expected:
        return [f"step {step} was computed by {record['workers']} workers, where the group was one of {group.workers}"]
    if step > expected and follows:
        return missing(range(expected, step))
    if step < expected:
        return [f"step {step} is recorded once more, though the run had not gone back before it"]
    return [f"step {step} is recorded where step {expected} belongs"]


def missing(steps: Iterable[int]) -> list[str]:
    """A sentence for each step without a record, or for each row of them."""
    rows: list[list[int]] = []
    for step in steps:
        if rows and rows[-1][-1] == step - 1:
            rows[-1].append(step)
        else:
            rows.append([step])
    return [
        f"steps {row[0]} to {row[-1]} are not in the step log" if len(row) > 1 else f"step {row[0]} is not in the step log"
        for row in rows
    ]
