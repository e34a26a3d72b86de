"""The last step that a recheck has passed, which a loss of trust goes back to. Nothing here needs torch."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from foundray.runs.lineage import counted, undoes_after


def passed_after(before: int, record: Mapping[str, Any]) -> int:
    """The last step that a recheck has passed, after one more event or step of a run.

    A worker that computes alone is compared with nobody, so its steps count once it has passed a recheck with others. What
    a new group starts from stays trusted, but no step that it repeats. Earlier versions do not say in which steps a recheck
    took place: theirs do not count.
    """
    if "event" not in record:
        return max(before, int(record["step"])) if record.get("rechecked") else before
    if record["event"] == "branched":  # what the run begins with, it cannot go back before
        return int(record["step"])
    if record["event"] == "workers_started":
        return min(before, int(record["step"]))
    to = undoes_after(record)
    return before if to is None else min(before, to)


def last_rechecked(story: Iterable[Mapping[str, Any]]) -> int:
    """The same after all records of a run, in order of time."""
    last = 0
    for record in counted(story):
        last = passed_after(last, record)
    return last
