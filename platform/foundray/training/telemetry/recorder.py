"""The record of a run as it goes: events.jsonl, metrics.jsonl, TensorBoard, Prometheus, and what the user sees."""

from __future__ import annotations

import math
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from foundray.errors import InputError, RunFailed
from foundray.records.schema import kinds
from foundray.records.traits import Trait
from foundray.runs.checkpoints import with_loss
from foundray.runs.run import Run
from foundray.spec import Spec
from foundray.training.rollback import appended, recorded
from foundray.training.telemetry.curves import Curves
from foundray.training.telemetry.exporter import Exporter
from foundray.training.telemetry.metrics import METRICS, RunMetrics
from foundray.training.telemetry.record_writer import RecordWriter
from foundray.wording.sentences import progress, remarks, sentence

if TYPE_CHECKING:
    from foundray.training.telemetry.bar import Bar

LINE_SECONDS = 10.0
"""Between progress lines where there is no terminal."""
HISTORY = 4096
"""Losses remembered, for a run that goes on from a checkpoint from before these held the spike guard's window."""
PRINTED = kinds(Trait.PRINTED)
"""Kinds of events that are printed as they happen; events.jsonl has them all."""


class Recorder:
    """Takes the workers' records; the only writer of the run's record."""

    def __init__(
        self,
        run: Run,
        spec: Spec,
        bytes_per_token: float | None,
        report: Callable[[str], None],
        show_progress: bool,
        told: RunMetrics | None = None,
    ):
        """`told` is what Prometheus is told of the run, if anything."""
        self.run, self.spec, self.report = run, spec, report
        self.bytes_per_token = bytes_per_token
        """UTF-8 bytes of text behind an answer; None where the loss is not the text's own likelihood."""
        self.step = 0
        """The last step recorded."""
        events = run.records("events.jsonl")
        self.requests = asked_for(events)
        self.evaluated = evaluated_until(events, spec.guard.recheck_every or 1)
        """The last step whose evaluation is recorded, and counts."""
        self.val_losses: dict[int, float] = {}
        """By step, of the evaluations recorded."""
        for known in events:
            self.val_losses = with_loss(self.val_losses, known)
        self.roll_backs = recorded(events)
        self.unlike = next((e["reason"] for e in reversed(events) if e["event"] == "unlike"), "")
        """What was told last of hardware that differs."""
        self.losses: deque[tuple[int, float]] = deque(maxlen=HISTORY)
        """(step, loss) of the last steps recorded, but spikes."""
        self.skipped: set[tuple[int, int]] = set()
        """(step's worth of data, micro-batch) of all that were left out."""
        last: dict[str, Any] = {"time": 0.0, "step": 0}
        for last in run.each("metrics.jsonl"):
            self._remember([last])
        self.before: int | None = last["step"] or None
        """The last step that commands before have recorded, until this one's first group begins."""
        self.clock = Clock(max(record["time"] for record in [*events[-1:], last]))
        self.began = self.clock.now()
        """When the command began: nothing that it records came before."""
        for said in run.damage():
            report(f"{said}; the run goes on without it")
        self.lock = threading.RLock()
        self.abandoned = False
        """Whether the record is another command's, and nothing more is written."""
        self.shown = time.monotonic()
        self.curves = Curves(run, events)
        self.record_writer = RecordWriter(run, last["step"], self.curves.store)
        self.told = told
        if told:
            told.begin(run.story())
        self.exporter = Exporter(spec.name, METRICS, told.read) if told else None
        self.bar: Bar | None = None
        if show_progress and sys.stderr.isatty():
            from foundray.training.telemetry.bar import Bar

            self.bar = Bar(spec.train.steps)

    @property
    def reached(self) -> int:
        """The last step recorded, by whichever command."""
        return self.step if self.before is None else self.before

    @property
    def kept(self) -> int:
        """The last step whose record is stored."""
        return self.record_writer.kept

    def write(self, records: list[dict[str, Any]]) -> None:
        """Record and show. Records come with their `age` in seconds, if they have one."""
        with self.lock:
            if self.abandoned:
                return
            records = [self._enriched(self._timed(record)) for record in records if not self._known(record)]
            events = [record for record in records if "event" in record]
            metrics = [record for record in records if "event" not in record]
            self.record_writer.add(events, metrics)
            self._remember(metrics)
            for record in records:  # in order: a group begins before its steps
                if "event" in record:
                    self.curves.add_event(record)
                else:
                    self.curves.add_step(record)
            self._tell_of_curves()
            for record in metrics:
                for remark in remarks(record):
                    self._line(remark)
            for record in events:
                self._tell(record)
            if self.told:
                self.told.take([*events, *metrics], self.clock.now())
            if metrics:
                self._show(metrics[-1])

    def _known(self, record: dict[str, Any]) -> bool:
        """Whether this was recorded already: a new rank 0 sends what may not have come through from the one before.

        A group that starts at an earlier step does the later ones again, and they are news.
        """
        match record.get("event"):
            case "workers_started":
                self.step, self.before = record["step"], None
            case "unlike":  # every group finds that out anew
                known, self.unlike = record["reason"] == self.unlike, record["reason"]
                return known
            case "evaluated":
                known, self.evaluated = record["step"] <= self.evaluated, max(self.evaluated, record["step"])
                return known
            case None:
                known, self.step = record["step"] <= self.step, max(self.step, record["step"])
                return known
        return False

    def _remember(self, metrics: list[dict[str, Any]]) -> None:
        for record in metrics:
            if not record["spike"]:
                self.losses.append((record["step"], record["loss"]))
            self.skipped |= {(record["step"] + record["passed_over"], index) for index in record["skipped"]}

    def settle(self) -> None:
        """Wait until all is stored. Raises RunFailed where storage does not take it in time."""
        with self._storage_may_fail():
            self.record_writer.settle(self.spec.fault.storage_wait_s)

    def _timed(self, record: dict[str, Any]) -> dict[str, Any]:
        aged = dict(record)
        age = aged.pop("age", 0.0)
        if record.get("event") == "command":
            self.began = self.clock.now()
        return {"time": round(max(self.began, self.clock.now() - age), 3), **aged}

    def _enriched(self, record: dict[str, Any]) -> dict[str, Any]:
        if record.get("event") == "evaluated" and self.bytes_per_token:
            return record | {"bits_per_byte": record["val_loss"] / math.log(2) / self.bytes_per_token}
        return record

    def _tell(self, record: dict[str, Any]) -> None:
        self.val_losses = with_loss(self.val_losses, record)
        match record["event"]:
            case "places":
                self.requests.append(record["request"])
            case "rolled_back":
                self.roll_backs = appended(self.roll_backs, *recorded([record]))
        if self.bar:
            self.bar.event(record["event"])
        if record["event"] in PRINTED:
            self._line(sentence(record))

    def _tell_of_curves(self) -> None:
        while self.curves.news:
            self._line(self.curves.news.popleft())

    def _show(self, record: dict[str, Any]) -> None:
        if self.bar:
            self.bar.step(record)
        elif time.monotonic() - self.shown > LINE_SECONDS:
            self.shown = time.monotonic()
            self._line(progress(record, self.spec.train.steps))

    def _line(self, text: str) -> None:
        if self.bar:
            self.bar.print(text)
        else:
            self.report(text)

    def abandon(self) -> None:
        """Write nothing more, not even what waits: the record is another command's."""
        with self.lock:
            self.abandoned = True
            self.record_writer.abandon()

    def close(self, failed: bool = False) -> None:
        """Raises RunFailed where storage does not take the rest; after a run that `failed`, that is told and hides no cause."""
        if self.bar:
            self.bar.close()
        if self.exporter:
            self.exporter.close()
        if self.abandoned:
            return
        try:
            with self._storage_may_fail():
                self.record_writer.close(self.spec.fault.storage_wait_s)
        except RunFailed as error:
            if not failed:
                raise
            self.report(str(error))
        finally:
            self.curves.close()
            self._tell_of_curves()

    @contextmanager
    def _storage_may_fail(self) -> Iterator[None]:
        try:
            yield
        except InputError as error:
            go_on = f"make room, or wait for the storage, then `foundray resume {self.run.folder}`"
            raise RunFailed(f"the run's record could not be written: {error}; {go_on}") from error


def asked_for(events: list[dict[str, Any]]) -> list[str]:
    """What the run's commands have asked Ray's autoscaling coordinator for, by name."""
    return [event["request"] for event in events if event["event"] == "places" and event["request"]]


def evaluated_until(events: list[dict[str, Any]], recheck_every: int) -> int:
    """The last step whose evaluation counts: those that a roll-back or a loss of trust has undone are made again."""
    last = 0
    for event in events:
        match event["event"]:
            case "evaluated":
                last = max(last, event["step"])
            case "rolled_back":
                last = min(last, event["to"])
            case "left_out":
                last = min(last, event["step"] // recheck_every * recheck_every)
    return last


class Clock:
    """Seconds since the epoch, which do not jump and do not go back before `last`, whatever the machine's clock does."""

    def __init__(self, last: float):
        self.ahead = max(time.time(), last) - time.monotonic()

    def now(self) -> float:
        return time.monotonic() + self.ahead
