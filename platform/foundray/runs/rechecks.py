"""The last step that a recheck has passed, which a loss of trust goes back to. Nothing here needs torch."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from foundray.runs.lineage import undoes_after


def rechecked(before: int, record: Mapping[str, Any], every: int) -> int:
    """The last step that a recheck has passed, after one more event or step of a run that is rechecked every so many steps.

    A worker that computes alone is compared with nobody, so its steps count once it has passed a recheck with others. What
    a new group starts from is passed, and no step that it repeats.
    """
    if "event" not in record:
        # Earlier versions do not say whether a recheck that was due took place.
        step = int(record["step"])
        return max(before, step) if step % every == 0 and record.get("rechecked") is not False else before
    if record["event"] == "workers_started":
        return min(before, int(record["step"]))
    to = undoes_after(record)
    return before if to is None else min(before, to)


def last_rechecked(story: Iterable[Mapping[str, Any]], every: int | None) -> int:
    """The same after all records of a run, in order of time; 0 if the run is not rechecked."""
    last = 0
    for record in story if every else ():
        last = rechecked(last, record, every or 1)
    return last
