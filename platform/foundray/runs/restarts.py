"""How often a run's workers had to form a group anew, counted in one place for all that is told of it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from foundray.records.schema import kinds
from foundray.records.traits import Trait

ENDS_WELL = kinds(Trait.ENDS_WELL)


class Restarts:
    """Groups formed anew, since workers were lost, came or went, or since a command failed or was killed.

    The first group of a run is none, nor is the first after a command that ended because it was asked to.
    """

    def __init__(self) -> None:
        self.count = 0
        self.afresh = True
        """Whether the next group is none."""

    def add(self, event: Mapping[str, Any]) -> None:
        """The next event, in order of time."""
        if event["event"] == "workers_started":
            self.count += not self.afresh
            self.afresh = False
        elif event["event"] in ENDS_WELL:
            self.afresh = True


def restarts(events: Iterable[Mapping[str, Any]]) -> int:
    """Of a whole record: see `Restarts`."""
    counted = Restarts()
    for event in events:
        counted.add(event)
    return counted.count
