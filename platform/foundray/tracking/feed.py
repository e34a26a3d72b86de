"""The feed of one tracker: what the run's logs hold and the tracker has not been sent."""

from __future__ import annotations

import json
import secrets
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict
from itertools import islice
from typing import Any

from foundray.contract.tracking import Point, Position, RunInfo, Tracker
from foundray.errors import InputError
from foundray.records.reader import Reader, Shorter
from foundray.runs.run import Run
from foundray.spec import Spec, digest, flatten
from foundray.spec.running import TrackerConfig
from foundray.storage import redacted
from foundray.tracking.points import Points

RETRY_SECONDS = 30.0
"""Wait after a tracker has failed."""
RECORDS = 10_000
"""Records of a log read at a time."""
BATCH = 500
"""Points sent at a time."""
FOLDER = "trackers"
"""Where the run's folder says how far each tracker has been sent the logs."""


class Feed:
    def __init__(self, run: Run, spec: Spec, config: TrackerConfig, say: Callable[[str], None]):
        """`say` is for people: where the run can be seen, and what failed."""
        self.run, self.spec, self.config, self.say = run, spec, config, say
        self.place = run.folder / FOLDER / f"{config.kind}-{digest(config.model_extra or {})[:8]}.json"
        self.tracker: Tracker | None = None
        """None until it has begun, and after it has failed."""
        self.points = Points(Position(), spec.guard.roll_back, spec.objective.build().loss_unit)
        self.readers = {log: Reader(run.folder, log) for log in ("metrics", "events")}
        self.waiting: list[Point] = []
        self.retry_at = 0.0
        self.has_failed = self.has_begun = False
        """Whether a failure was reported, and whether a place was."""

    def pump(self, finished: bool = False, retry_now: bool = False) -> bool:
        """Send what is new, and what is held back if the run is finished; return whether all was sent. Raises nothing."""
        if time.monotonic() < self.retry_at and not retry_now:
            return False
        try:
            if self.tracker is None:
                self._begin()
            more = True
            while more:
                more = self._read()
                if finished and not more:
                    self.points.finish()
                self.waiting += self.points.taken()
                self._send()
            return True
        except Exception as error:  # of any kind: the tracker is a third party's
            self._note(error)
            return False

    def end(self, state: str) -> None:
        """Tell the tracker that the command has ended. Raises nothing."""
        if self.tracker is not None:
            try:
                self.tracker.end(state)
            except Exception as error:
                self._note(error)

    def _begin(self) -> None:
        """Begin from what the tracker itself says that it has, or else from what was noted."""
        noted = self._noted()
        sent = Position(**noted["sent"])
        spec = {name: value for name, value in flatten(self.spec.model_dump(mode="json")).items() if value is not None}
        tracker = self.config.build()
        has = tracker.begin(RunInfo(self.spec.name, noted["id"], self.run.folder.url, spec, sent))
        self._read_again(sent if has is None else has)
        self.tracker = tracker
        if not self.has_begun and (where := tracker.where()):
            self.say(f"{self.config.kind}: {redacted(where)}")
        self.has_begun = True

    def _read_again(self, sent: Position) -> None:
        self.points = Points(sent, self.spec.guard.roll_back, self.spec.objective.build().loss_unit)
        self.readers = {log: Reader(self.run.folder, log) for log in self.readers}
        self.waiting = []

    def _read(self) -> bool:
        """Read on, and return whether there may be more: a long run's log is not held in memory."""
        try:
            steps, events = (list(islice(self.readers[log].new(), RECORDS)) for log in ("metrics", "events"))
        except Shorter:  # the logs were replaced
            self._read_again(self.points.sent)
            return True
        self.points.add_steps(steps)
        self.points.add_events(events)
        return RECORDS in (len(steps), len(events))

    def _send(self) -> None:
        assert self.tracker
        while self.waiting:
            batch = self.waiting[:BATCH]
            self.tracker.send(batch)
            del self.waiting[: len(batch)]
            self._write(self._noted()["id"], batch[-1].position)

    def _note(self, error: Exception) -> None:
        self.tracker, self.retry_at = None, time.monotonic() + RETRY_SECONDS
        if not self.has_failed:
            self.has_failed = True
            why = redacted(" ".join(str(error).split()) or type(error).__name__)
            self.say(f"{self.config.kind} lacks some of the run for now (tried again every {RETRY_SECONDS:.0f} s): {why}")

    def _noted(self) -> dict[str, Any]:
        """The run's id there, and how far the logs were sent; written at once if there is none yet."""
        with suppress(InputError, ValueError, TypeError, KeyError):
            found = json.loads(self.place.read_text())
            Position(**found["sent"])
            return {"id": str(found["id"]), "sent": found["sent"]}
        return self._write(secrets.token_hex(6), Position())

    def _write(self, name: str, sent: Position) -> dict[str, Any]:
        noted = {"id": name, "sent": asdict(sent)}
        self.place.write_text(json.dumps(noted))
        return noted
