"""Count a run's restarts: the one definition for status, reports and metrics."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from foundray.records.schema import kinds
from foundray.records.traits import Trait

ENDS_WELL = kinds(Trait.ENDS_WELL)


class Restarts:
    """Counts groups formed again because workers were lost, came or left, or a command failed or was killed.

    The first group of a run is not a restart, nor is the first after a command that ended on request.
    """

    def __init__(self) -> None:
        self.count = 0
        self.fresh = True
        """Whether the next group is not a restart."""

    def add(self, event: Mapping[str, Any]) -> None:
        """Take the next event, in order of time."""
        if event["event"] == "workers_started":
            self.count += not self.fresh
            self.fresh = False
        elif event["event"] in ENDS_WELL:
            self.fresh = True


def restarts(events: Iterable[Mapping[str, Any]]) -> int:
    """Restarts in a complete log: see `Restarts`."""
    counted = Restarts()
    for event in events:
        counted.add(event)
    return counted.count
