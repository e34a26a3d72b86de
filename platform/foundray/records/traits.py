"""What modules need to know about a kind of event or a number of a step: each is declared with it, in `schema`."""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import Flag, auto


class Trait(Flag):
    NONE = 0
    BEGINS = auto()
    """A command or a group begins."""
    ENDS = auto()
    """The command ends."""
    ENDS_WELL = auto()
    """The command ends as asked, without an error: the next group is no restart."""
    ROUTINE = auto()
    """Expected in an undisturbed run; no incident."""
    HIDDEN = auto()
    """Says nothing to people: `logs` and `status` leave it out."""
    PRINTED = auto()
    """`train` prints it as it happens."""
    FAULT = auto()
    """Counted as a fault by the metrics."""
    FAULT_MARK = auto()
    """A mark on TensorBoard's curve of faults."""
    STORAGE = auto()
    """Storage did not do as it should."""
    AWAITS_GROUP = auto()
    """The run may wait for a next group."""
    STOPS_GROUP = auto()
    """The group cannot continue; a next one follows."""
    RECOVERS = auto()
    """From here to the next step, time counts as recovery."""
    RESIZES = auto()
    """The number of workers that train may change."""
    MOVES = auto()
    """Sets the step that the run is at."""
    LATE = auto()
    """Has the time when it happened, but may be recorded long after, behind later events."""
    BESIDE_DRIVER = auto()
    """Another process dates it, perhaps before the driver records that its command began."""


@dataclass(frozen=True)
class Measure:
    """A number that the step finds: a field of `StepResult` and of `Step`.

    It is recorded, judged by the audit, and shown by Prometheus and TensorBoard.
    """

    metric: str
    """Its name in Prometheus."""
    text: str
    """Its explanation there."""
    least: float = -math.inf
    """Lower limit; every value is finite."""

    def allows(self, value: float) -> bool:
        return math.isfinite(value) and value >= self.least
