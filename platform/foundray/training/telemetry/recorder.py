"""Recorder: takes a run's records for events.jsonl, metrics.jsonl, TensorBoard, Prometheus and the user."""

from __future__ import annotations

import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from foundray.errors import InputError, RunFailed
from foundray.records.schema import kinds
from foundray.records.traits import Trait
from foundray.runs import lineage
from foundray.runs.checkpoints import with_loss
from foundray.runs.lineage import Lineage
from foundray.runs.rechecks import passed_after
from foundray.runs.run import Run
from foundray.spec import Spec
from foundray.training.rollback import RollBack, recorded, updated
from foundray.training.telemetry.curves import Curves
from foundray.training.telemetry.exporter import Exporter
from foundray.training.telemetry.likelihood import BytesPerToken, with_meaning
from foundray.training.telemetry.listener import Listener, Told
from foundray.training.telemetry.metrics import METRICS, RunMetrics
from foundray.training.telemetry.record_writer import RecordWriter
from foundray.wording.sentences import progress, remarks, sentence
from foundray.wording.words import plural

if TYPE_CHECKING:
    from foundray.training.telemetry.bar import Bar

LINE_SECONDS = 10.0
"""Interval between progress lines without a terminal."""
HISTORY = 4096
"""Losses remembered, for a run that continues from a checkpoint made before these held the spike guard's window."""
PRINTED = kinds(Trait.PRINTED)
"""Kinds of events that are printed as they happen; events.jsonl has them all."""


class Recorder:
    """Takes the workers' records; the only writer of the run's log."""

    def __init__(
        self,
        run: Run,
        spec: Spec,
        bytes_per_token: BytesPerToken | None,
        report: Callable[[str], None],
        show_progress: bool,
        run_metrics: RunMetrics | None = None,
        on_event: Told | None = None,
    ):
        """`run_metrics` are the numbers for Prometheus, if any; `on_event` is told of each record."""
        self.run, self.spec, self.report = run, spec, report
        self.loss_unit = spec.objective.build().loss_unit
        self.bytes_per_token = bytes_per_token
        """UTF-8 bytes of text per target; None if the loss is not the text's own likelihood."""
        self.step = 0
        """The last step recorded."""
        events = run.records("events.jsonl")
        self.requests = past_requests(events)
        self.evaluated = evaluated_until(events, spec.guard.recheck_every or 1)
        """The last step whose evaluation is recorded and counts."""
        self.val_losses: dict[int, float] = {}
        """Validation losses recorded, by step."""
        for record in events:
            self.val_losses = with_loss(self.val_losses, record)
        self.roll_backs = recorded(events)
        """The roll-backs in force."""
        self.lineage = lineage.recorded(events)
        """The run's cuts."""
        self.unlike = next((e["reason"] for e in reversed(events) if e["event"] == "unlike"), "")
        """The last report of differing hardware."""
        self.losses: deque[tuple[int, float]] = deque(maxlen=HISTORY)
        """(step, loss) of the last steps recorded, without spikes."""
        self.skipped: set[tuple[int, int]] = set()
        """(data step, micro-batch) of all that were left out."""
        self.rechecked = self.rechecked_before = 0
        """The last step that a recheck has passed, and the one before that."""
        last: Mapping[str, Any] = {"time": 0.0, "step": 0}
        for counted in lineage.counted(run.story()):
            self._follow_rechecks(counted)
            if "event" not in counted:
                last = counted
                self._remember([last])
        self.previous_last: int | None = last["step"] or None
        """The last step recorded by earlier commands, until this command's first group begins."""
        self.clock = Clock(max(record["time"] for record in [*events[-1:], last]))
        self.began = self.clock.now()
        """Time at which the command began: nothing that it records came before."""
        for damage in run.damage():
            report(f"{damage}; the run continues without it")
        self.lock = threading.RLock()
        self.abandoned = False
        """Whether the log belongs to another command, so that nothing more is written."""
        self.last_line_at = time.monotonic()
        self.curves = Curves(run, events)
        self.record_writer = RecordWriter(run, last["step"], self.curves.store)
        self.run_metrics = run_metrics
        if run_metrics:
            run_metrics.begin(run.story())
        self.exporter = Exporter(spec.name, METRICS, run_metrics.read) if run_metrics else None
        self.listener = Listener(on_event, self.print_line) if on_event else None
        self.bar: Bar | None = None
        if show_progress and sys.stderr.isatty():
            from foundray.training.telemetry.bar import Bar

            self.bar = Bar(spec.train.steps, spec.scale.world[1])
        self.formed = False
        """Whether a group has been formed, or is being formed."""

    @property
    def reached(self) -> int:
        """The last step recorded by any command."""
        return self.step if self.previous_last is None else self.previous_last

    @property
    def stored_step(self) -> int:
        """The last step whose record is stored."""
        return self.record_writer.stored_step

    def write(self, records: list[dict[str, Any]]) -> None:
        """Record and show. Records may carry their `age` in seconds."""
        with self.lock:
            if self.abandoned:
                return
            # Drop what is recorded already, and store the rest.
            records = [self._enriched(self._timed(record)) for record in records if not self._is_duplicate(record)]
            events = [record for record in records if "event" in record]
            metrics = [record for record in records if "event" not in record]
            self.record_writer.add(events, metrics)
            self._remember(metrics)
            for record in records:  # in order: a group begins before its steps
                self._follow_rechecks(record)
                if "event" in record:
                    self.curves.add_event(record)
                else:
                    self.curves.add_step(record)
                if self.listener:
                    self.listener.take(record)
            self._report_curves()
            # Show the user what matters, and update the exported numbers.
            for record in metrics:
                for remark in remarks(record):
                    self.print_line(remark)
            for record in events:
                self._report_event(record)
            if self.run_metrics:
                self.run_metrics.take([*events, *metrics], self.clock.now())
            if metrics:
                self._show_progress(metrics[-1])

    def _is_duplicate(self, record: dict[str, Any]) -> bool:
        """Tell whether this was recorded already: a new rank 0 resends what the previous one may not have sent.

        A group that starts at an earlier step repeats the later ones, and those count as new.
        """
        match record.get("event"):
            case "workers_started":
                self.step, self.previous_last = record["step"], None
            case "unlike":  # every group finds this out again
                duplicate, self.unlike = record["reason"] == self.unlike, record["reason"]
                return duplicate
            case "evaluated":
                duplicate, self.evaluated = record["step"] <= self.evaluated, max(self.evaluated, record["step"])
                return duplicate
            case None:
                duplicate, self.step = record["step"] <= self.step, max(self.step, record["step"])
                return duplicate
        return False

    def _remember(self, metrics: Iterable[Mapping[str, Any]]) -> None:
        for record in metrics:
            if not record["spike"]:
                self.losses.append((record["step"], record["loss"]))
            self.skipped |= {(record["step"] + record["passed_over"], index) for index in record["skipped"]}

    def _follow_rechecks(self, record: Mapping[str, Any]) -> None:
        if (passed := passed_after(self.rechecked, record)) > self.rechecked:
            self.rechecked_before = self.rechecked
        self.rechecked = passed
        self.rechecked_before = min(self.rechecked_before, passed)

    @property
    def kept_from(self) -> int:
        """The last step known to have passed a recheck, also to a command that knows only what is stored."""
        return self.rechecked if self.rechecked <= self.stored_step else self.rechecked_before

    def follow(self, to: int, cuts: Lineage, roll_backs: tuple[RollBack, ...]) -> None:
        """Take over the cuts that another command has recorded; they undo what came after step `to`."""
        self.lineage, self.roll_backs = cuts, roll_backs
        self.evaluated, self.rechecked = min(self.evaluated, to), min(self.rechecked, to)
        self.val_losses = {step: loss for step, loss in self.val_losses.items() if step <= to}

    def settle(self) -> None:
        """Wait until all is stored. Raises RunFailed if storage does not take it in time."""
        with self._storage_may_fail():
            self.record_writer.settle(self.spec.fault.storage_wait_s)

    def _timed(self, record: dict[str, Any]) -> dict[str, Any]:
        aged = dict(record)
        age = aged.pop("age", 0.0)
        if record.get("event") == "command":
            self.began = self.clock.now()
        return {"time": round(max(self.began, self.clock.now() - age), 3), **aged}

    def _enriched(self, record: dict[str, Any]) -> dict[str, Any]:
        return with_meaning(record, self.spec, self.bytes_per_token) if record.get("event") == "evaluated" else record

    def _report_event(self, record: dict[str, Any]) -> None:
        self.val_losses = with_loss(self.val_losses, record)
        match record["event"]:
            case "places":
                self.requests.append(record["request"])
            case "rolled_back" | "left_out":
                self.roll_backs = updated(self.roll_backs, record)
                self.lineage += lineage.recorded([record])
        if self.bar:
            self.bar.event(record)
        if record["event"] in PRINTED:
            self.print_line(sentence(record, self.loss_unit))

    def _report_curves(self) -> None:
        while self.curves.messages:
            self.print_line(self.curves.messages.popleft())

    def _show_progress(self, record: dict[str, Any]) -> None:
        if self.bar:
            self.bar.step(record)
        elif time.monotonic() - self.last_line_at > LINE_SECONDS:
            self.last_line_at = time.monotonic()
            self.print_line(progress(record, self.spec.train.steps))

    def forming(self, workers: int) -> None:
        """Show that a group of this many workers is being formed; without a terminal only the first one."""
        text = f"forming a group of {plural(workers, 'worker')}"
        with self.lock:
            if self.bar:
                self.bar.forming(text)
            elif not self.formed:
                self.report(text)
            self.formed = True

    def print_line(self, text: str) -> None:
        """Show a line to the user, above the bar if there is one."""
        if self.bar:
            self.bar.print(text)
        else:
            self.report(text)

    def abandon(self) -> None:
        """Write nothing more, not even what waits: the log belongs to another command."""
        with self.lock:
            self.abandoned = True
            self.record_writer.abandon()

    def close(self, failed: bool = False) -> None:
        """Store the rest. Raises RunFailed if storage does not take it; after a run that `failed`, reports that instead."""
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
            self._report_curves()
            if self.listener:
                self.listener.close()

    @contextmanager
    def _storage_may_fail(self) -> Iterator[None]:
        try:
            yield
        except InputError as error:
            remedy = f"make room, or wait for the storage, then `foundray resume {self.run.folder}`"
            raise RunFailed(f"the run's record could not be written: {error}; {remedy}") from error


def past_requests(events: list[dict[str, Any]]) -> list[str]:
    """Names of the requests that the run's commands made to Ray's autoscaling coordinator."""
    return [event["request"] for event in events if event["event"] == "places" and event["request"]]


def evaluated_until(events: list[dict[str, Any]], recheck_every: int) -> int:
    """Return the last step whose evaluation counts: those undone by a roll-back or by corruption are repeated."""
    last = 0
    for event in lineage.counted(events):
        match event["event"]:
            case "evaluated":
                last = max(last, event["step"])
            case "rolled_back" | "left_out" | "extended":
                # A loss of trust recorded by earlier versions does not say what it undoes.
                to = lineage.undoes_after(event)
                last = min(last, event["step"] // recheck_every * recheck_every if to is None else to)
    return last


class Clock:
    """Seconds since the epoch that do not jump or go back before `last`, whatever the machine's clock does."""

    def __init__(self, last: float):
        self.offset = max(time.time(), last) - time.monotonic()

    def now(self) -> float:
        return time.monotonic() + self.offset
