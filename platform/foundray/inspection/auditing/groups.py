"""Assigns each recorded step to the group of workers that did it, by combining the two logs.

A group that began from the state after step s does s + 1, s + 2, ...; the next one begins at the step reached, or at an
earlier one. The times in the two logs may differ by the time that records took to the driver, so a record belongs to the group
that it fits, among those at about that time.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from foundray.runs.extension import EXTENDED
from foundray.runs.lineage import Lineage, counted, recorded, under
from foundray.training.rollback import RollBack, passed_over, updated

SLACK_SECONDS = 10.0
"""Records may be out of order by this much: a record carries its age, but not its travel time to the driver."""


@dataclass(frozen=True)
class Group:
    time: float
    start: int
    """Steps done in the state from which it began."""
    workers: int
    roll_backs: tuple[RollBack, ...]
    """Roll-backs in force when it began."""
    lineage: str
    """Id of the last cut before it began; empty if there was none."""
    extensions: int = 0
    """How often the run had been extended before."""
    broke: bool = False
    """Whether a group broke between its start and the next recorded one."""


@dataclass(frozen=True)
class Placed:
    """A step's record, with its group and its data offset."""

    record: Mapping[str, Any]
    step: int
    group: Group
    passed_over: int
    """Data offset: steps by which its data are ahead of its number."""

    @property
    def position(self) -> int:
        """Position of its data in the order, in steps."""
        return self.step - 1 + self.passed_over


def groups_of(events: Sequence[Mapping[str, Any]]) -> list[Group]:
    """The recorded groups, in order."""
    found, turns, cuts, extensions = list[Group](), tuple[RollBack, ...](), Lineage(), 0
    for event in counted(events):
        extensions += event["event"] == EXTENDED
        turns, cuts = updated(turns, event), cuts + recorded([event])
        if event["event"] == "workers_started":
            found.append(Group(event["time"], event["step"], event["workers"], turns, under(cuts), extensions))
        elif event["event"] == "group_broken" and found:
            found[-1] = replace(found[-1], broke=True)
    return found


def placed(metrics: Sequence[Mapping[str, Any]], groups: Sequence[Group]) -> tuple[list[Placed], list[str]]:
    """Every record with its group, and a sentence for each record that fits no group."""
    if not groups:
        return [], ["no group of workers is recorded that could have done a step"]
    found, problems, groups = list[Placed](), list[str](), list(groups)
    at, done, seen = 0, groups[0].start, 0.0
    for index, record in enumerate(metrics):
        step = record["step"]
        # Groups that the record may belong to, and the steps that each had done by then.
        near = _near(groups, at, max(seen, record["time"]))
        reached = {one: done if one == at else groups[one].start for one in near}
        fitting = [one for one in near if (step, record["workers"]) == (reached[one] + 1, groups[one].workers)]
        if fitting:
            at, done = fitting[0], step
        elif step == done + 1 and _start_lost(metrics, index, groups[at : at + 2]):
            groups.insert(at + 1, replace(groups[at], time=record["time"], start=done, workers=record["workers"]))
            at, done = at + 1, step
        else:
            follows = index + 1 < len(metrics) and metrics[index + 1]["step"] == step + 1
            problems += _misfits(record, groups[at], done + 1, follows)
            done = step if follows else max(done, min(step, done + 1))
            groups[at] = replace(
                groups[at], broke=False
            )  # search for a lost start only once: the search may go to the log's end
        seen = record["time"]
        found.append(Placed(record, step, groups[at], passed_over(groups[at].roll_backs, step - 1)))
    return found, problems


def _near(groups: Sequence[Group], at: int, time: float) -> list[int]:
    """Groups at about this time, from the `at`-th on: the one that the time gives comes first."""
    candidates = [one for one in range(at, len(groups)) if one == at or groups[one].time <= time + SLACK_SECONDS]
    by_time = max((one for one in candidates if groups[one].time <= time), default=at)
    return sorted(candidates, key=lambda one: (one != by_time, one > by_time, abs(one - by_time)))


def _start_lost(metrics: Sequence[Mapping[str, Any]], index: int, groups: Sequence[Group]) -> bool:
    """Whether a step, and those after it, can belong to a group between these two whose start is not recorded.

    The record of the start is lost if the group's rank 0, which sends it, is lost; the other workers send the steps again. Then
    the steps go up to the next group's first one, and a group broke before that.
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
    """Why the record is not the expected step's; `follows` says whether the next record is of the step after it."""
    step = record["step"]
    if step == expected:
        return [f"step {step} was computed by {record['workers']} workers, but the group had {group.workers}"]
    if step > expected and follows:
        return missing(range(expected, step))
    if step < expected:
        return [f"step {step} is recorded again, although the run had not gone back before it"]
    return [f"step {step} is recorded where step {expected} belongs"]


def missing(steps: Iterable[int]) -> list[str]:
    """A sentence for each run of consecutive steps without a record."""
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
