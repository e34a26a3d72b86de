"""Trackers: places outside a run's folder that are sent its numbers, such as W&B, MLflow or a service of your own.

A tracker is one class in one file, found by the entry point group `foundray.trackers`; its pydantic fields are its options in
the spec. It works in a process of its own, beside the driver, that reads the run's logs: whatever it does, raises or waits for
costs the run nothing, and what it could not take is sent again later.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

from pydantic import BaseModel, ConfigDict, ValidationError

from foundray.contract import class_of
from foundray.errors import InputError

TRACKERS = "foundray.trackers"


@dataclass(frozen=True)
class Position:
    """How far a run's logs have been sent."""

    step: int = 0
    """The last step of metrics.jsonl."""
    events: int = 0
    """Lines of events.jsonl."""


@dataclass(frozen=True)
class Point:
    """The numbers of a step, or what happened at it."""

    step: int
    """Steps done."""
    time: float
    """Seconds since the epoch."""
    values: Mapping[str, float]
    """Numbers by name, such as `train/loss` in nats; some may be infinite or not a number."""
    note: str
    """What happened, as a sentence; empty for a step."""
    position: Position
    """How far the logs have been sent with this point. Each point moves it on."""


@dataclass(frozen=True)
class RunInfo:
    """What a tracker knows of the run."""

    name: str
    """The run's name."""
    id: str
    """Random, and the same for all commands of the run."""
    folder: str
    """The run's folder; a local path or a URL."""
    spec: Mapping[str, Any] = field(default_factory=dict)
    """The spec's fields by dotted name."""
    sent: Position = Position()
    """How far an earlier command knows to have sent the logs."""


class Tracker(BaseModel, ABC):
    """A place that is sent a run's numbers. Whatever a method raises is said once, and tried again from `begin`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    package: ClassVar[str | None] = None
    """Module without which it cannot work, if any: the extra that installs it has the tracker's name."""

    def begin(self, run: RunInfo) -> Position | None:
        """Begin, or continue what an earlier command began.

        Returns how far the place itself knows to have the logs, so that nothing is sent twice; None if it cannot say, which
        then is `run.sent`.
        """
        return None

    @abstractmethod
    def send(self, points: Sequence[Point]) -> None:
        """Take points, in order, and return once they are safe."""

    def end(self, state: str) -> None:
        """The command has ended, and the run is `finished`, `stopped`, `failed` or `interrupted`."""

    def where(self) -> str:
        """Where the run can be seen there, for people; empty if unknown. Called after `begin`."""
        return ""


def load_tracker(kind: str, options: dict[str, object]) -> Tracker:
    """Build a tracker. Raises InputError for an option that it does not have, or if its package does not work."""
    found: type[Tracker] = class_of(TRACKERS, kind)
    try:
        return found.model_validate(options)
    except ValidationError as error:
        first = error.errors()[0]
        known = ", ".join(found.model_fields) or "none"
        where = ".".join(["trackers", *map(str, first["loc"])])
        raise InputError(f"{where}: {first['msg']}; {kind} has these options: {known}") from None
