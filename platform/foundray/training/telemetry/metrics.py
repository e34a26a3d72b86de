"""A run's numbers for Prometheus: their names, and how they follow from the run's records.

Ages are exported instead of times, since the clocks of a run and of Prometheus differ. What "too long" means for a run
follows from its own pace and is exported as well: alert rules compare the two.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any, Literal

from foundray.records.schema import MEASURES, kinds
from foundray.records.takers import counts
from foundray.records.traits import Trait
from foundray.runs.goodput import Account, goodput_of
from foundray.runs.restarts import Restarts
from foundray.spec import Spec
from foundray.training.telemetry.exporter import Key, Reading
from foundray.wording.words import source_label

if TYPE_CHECKING:
    from foundray.data.stream.plan import StreamPlan

LATE_SECONDS = 10.0
"""Latest that a record may arrive: a new rank 0 resends what the previous one may not have sent."""
SMOOTHING = 0.1
"""Weight of the newest step in the running mean of seconds per step."""
PATIENCE = 20, 3, 300.0
"""A run counts as stalled after the time of this many steps, this many evaluations, and this many seconds without a step."""
OVERDUE, OVERDUE_SECONDS, AUTO_SECONDS = 3, 600.0, 3 * 3600.0
"""A checkpoint is old after this many intervals and at least this many seconds; without a set interval, after three hours."""
FAULTS = kinds(Trait.FAULT)
"""Kinds of events counted as faults."""
ENDS_WELL = kinds(Trait.ENDS_WELL)


@dataclass(frozen=True)
class Metric:
    kind: Literal["gauge", "counter", "histogram"]
    text: str
    tag: str | None = None
    """A tag besides `run`."""


METRICS = {
    "running": Metric("gauge", "1 while a command works on the run, 0 once it is finished"),
    "driver_silence_seconds": Metric("gauge", "Seconds since the driver last took records: more than a few are a fault"),
    "step": Metric("gauge", "Last optimizer step done"),
    "target_steps": Metric("gauge", "Optimizer steps in the run"),
    "step_age_seconds": Metric("gauge", "Seconds since the last step was recorded, or the command began"),
    "stalled_after_seconds": Metric("gauge", "Step age from which the run counts as stalled, by its own pace"),
    **{measure.metric: Metric("gauge", measure.text) for measure in MEASURES.values()},
    "validation_loss": Metric("gauge", "Validation loss, such as nats per token"),
    "validation_bits_per_byte": Metric("gauge", "The same, in bits per byte of text"),
    "effective_rank": Metric("gauge", "Effective rank of the features of validation samples: collapse shows here"),
    "learning_rate": Metric("gauge", "Learning rate of the last step"),
    "step_seconds": Metric("gauge", "The last step's time on rank 0: computing, data_wait, copying (the state)", "part"),
    "step_duration_seconds": Metric("histogram", "Time of a step on rank 0, waiting for data included"),
    "tokens_per_second": Metric("gauge", "Positions trained on per second, in the last step"),
    "samples_per_second": Metric("gauge", "Samples trained on per second, in the last step"),
    "mfu": Metric("gauge", "Model FLOPs of the last step divided by the hardware's peak in that time, 0 to 1"),
    "steps": Metric("counter", "Steps done by this command, repeated ones included"),
    "tokens": Metric("counter", "Positions trained on by this command, repeated ones included"),
    "micro_batches": Metric("counter", "Micro-batches computed, by the worker's rank in its group", "worker"),
    "workers": Metric("gauge", "Workers in the group"),
    "workers_fewest": Metric("gauge", "Fewest workers with which the run trains, in whole teams"),
    "workers_most": Metric("gauge", "Most workers that the run trains with, in whole teams"),
    "checkpoint_step": Metric("gauge", "Step of the last complete checkpoint"),
    "checkpoint_age_seconds": Metric("gauge", "Seconds since the last checkpoint was complete, or the command began"),
    "checkpoint_old_after_seconds": Metric("gauge", "Checkpoint age from which something is wrong, by the run's own pace"),
    "checkpoint_seconds": Metric("gauge", "From the start of the last checkpoint to its completion"),
    "checkpoint_bytes": Metric("gauge", "Size of the last checkpoint"),
    "mirror_lag_steps": Metric("gauge", "Steps since the newest state replicated in other workers' memory"),
    "restarts": Metric("gauge", "Groups formed again, over all commands: after a fault, or as workers came or went"),
    "steps_repeated": Metric("gauge", "Steps done again after a fault, over all commands"),
    "faults": Metric("gauge", "Faults over all commands, by kind", "kind"),
    "goodput": Metric("gauge", "Share of the run's time that went into steps that count, 0 to 1, over all commands"),
    "time_seconds": Metric("gauge", "The run's time by what it went into, over all commands", "part"),
    "skipped_micro_batches": Metric("gauge", "Micro-batches left out because their loss or gradient was not finite"),
    "not_finite": Metric("gauge", "How often a micro-batch's loss or gradient, or a validation loss, was not finite"),
    "spikes": Metric("gauge", "Steps whose loss spiked, and whose update was not made"),
    "source_tokens": Metric("gauge", "Positions of the source read so far", "source"),
    "source_epochs": Metric("gauge", "Epochs of the source's training split so far", "source"),
    "source_quarantined": Metric("gauge", "Rows, or other units, of the source that could not be used", "source"),
    "parcels_ready": Metric("gauge", "Parcels of micro-batches read and not yet taken"),
    "leases": Metric("counter", "Leases of micro-batches given to workers"),
    "leases_waiting": Metric("gauge", "Workers waiting for data"),
}  # fmt: skip
"""Metrics by name, prefixed with `ray_foundray_`; a counter's name ends in `_total`. All have the tag `run`."""


class RunMetrics:
    """Takes a run's records, and returns the current numbers at any time."""

    def __init__(self, spec: Spec, plan: StreamPlan, feeder: Any, step_flops: Callable[[], float]):
        """`step_flops` returns the FLOPs of a step; it is called only if the hardware's peak is known."""
        self.spec, self.order, self.feeder, self.step_flops = spec, plan.order(), feeder, cache(step_flops)
        self.lock = threading.Lock()
        self.values: dict[Key, float] = {}
        self.durations: list[float] = []
        self.account = Account()
        self.late_records: list[dict[str, Any]] = []
        """Records that the account has yet to take, in order of time."""
        self.began = self.heard_at = self.stepped_at = self.saved_at = time.monotonic()
        self.clock_offset = 0.0
        """Seconds by which the records' clock is ahead of this machine's monotonic clock."""
        self.restarts = Restarts()
        self.highest = self.data_steps = 0
        self.skipped: set[tuple[int, int]] = set()
        self.pace = self.evaluation = self.peak = 0.0
        self.pending_answer: Any = None
        self._set(running=1, target_steps=spec.train.steps, step=0, workers=0, checkpoint_step=0, restarts=0)
        self._set(workers_fewest=spec.scale.groups[0], workers_most=spec.scale.groups[1])
        self._set(steps_repeated=0, spikes=0, not_finite=0, skipped_micro_batches=0)
        self.values |= {("faults", kind): 0 for kind in FAULTS}
        self.sources = [source_label(index, source.path) for index, source in enumerate(spec.data.sources)]
        for index, source in enumerate(self.sources):
            self.values["source_quarantined", source] = self.order.manifest.balance(index).bad

    def begin(self, records: Iterable[dict[str, Any]]) -> None:
        """Take the records of earlier commands, in order of time."""
        with suppress(Exception):
            last: dict[str, dict[str, Any]] = {}
            for record in records:
                self.account.add(record)
                self._count(record)
                last[record.get("event", "")] = record
            self.account.pause()
            for name in ("evaluated", "checkpoint"):
                if name in last:
                    self._take_event(last[name])
            if step := last.get(""):
                self._set(step=step["step"])
                self.data_steps = step["step"] + step["passed_over"]

    def take(self, records: Iterable[dict[str, Any]], now: float) -> None:
        """Take new records; `now` is the present by their clock."""
        with self.lock, suppress(Exception):  # numbers for onlookers never stop a run
            self.heard_at = time.monotonic()
            self.clock_offset = now - self.heard_at
            for record in records:
                self._count(record)
                if "event" in record:
                    self._take_event(record)
                else:
                    self._take_step(record)
                self.late_records.append(record)

    def _set(self, **values: float | None) -> None:
        self.values |= {(name, ""): value for name, value in values.items() if value is not None}

    def _add(self, name: str, amount: float = 1, tag: str = "") -> None:
        self.values[name, tag] = self.values.get((name, tag), 0) + amount

    def _count(self, record: dict[str, Any]) -> None:
        """Update the counts over all commands."""
        if "event" in record:
            self.restarts.add(record)
        match record.get("event"):
            case "workers_started":
                self._set(restarts=self.restarts.count)
            case None:
                self._add("steps_repeated", int(record["step"] <= self.highest))
                self._add("spikes", int(record["spike"]))
                self._add("not_finite", len(record["skipped"]) + int(not math.isfinite(record["loss"])))
                self.highest = max(self.highest, record["step"])
                self.skipped |= {(record["step"] + record["passed_over"], index) for index in record["skipped"]}
                self._set(skipped_micro_batches=len(self.skipped))
            case "evaluated":
                self._add("not_finite", int(not math.isfinite(record["val_loss"])))
            case kind if kind in FAULTS:
                self._add("faults", tag=str(kind))

    def _take_event(self, record: dict[str, Any]) -> None:
        match record["event"]:
            case "workers_started":
                self.peak = record.get("peak_flops") or 0.0
                self._set(workers=record["workers"], step=record["step"])
            case "too_few":
                self._set(workers=record["workers"])
            case "evaluated":
                self.evaluation = record["seconds"]
                self._set(validation_loss=record["val_loss"], validation_bits_per_byte=record.get("bits_per_byte"))
                self._set(effective_rank=record.get("effective_rank"))
            case "checkpoint":
                self.saved_at = time.monotonic()
                step, seconds, size = record["step"], record["seconds"], record["bytes"]
                self._set(checkpoint_step=step, checkpoint_seconds=seconds, checkpoint_bytes=size)
            case kind if kind in ENDS_WELL:
                self._set(running=0)

    def _take_step(self, record: dict[str, Any]) -> None:
        # The pace and the last step's numbers.
        seconds = record["step_s"]
        total = seconds + record["copy_s"]
        self.stepped_at, self.data_steps = self.heard_at, record["step"] + record["passed_over"]
        self.pace = total if not self.pace else (1 - SMOOTHING) * self.pace + SMOOTHING * total
        self.durations.append(seconds)
        self._set(step=record["step"], learning_rate=record["lr"])
        self._set(**{measure.metric: record.get(name) for name, measure in MEASURES.items()})
        self._set(tokens_per_second=record["tokens_per_s"], samples_per_second=self.spec.samples_per_step / seconds)
        self._set(workers=record["workers"], mfu=self.step_flops() / seconds / self.peak if self.peak else None)
        parts = {"computing": seconds - record["data_wait_s"], "data_wait": record["data_wait_s"], "copying": record["copy_s"]}
        self.values |= {("step_seconds", part): value for part, value in parts.items()}
        if (mirrored := record["mirrored"]) is not None:
            self._set(mirror_lag_steps=record["step"] - mirrored)
        else:  # a lone worker has no replica
            self.values.pop(("mirror_lag_steps", ""), None)
        self._add("steps")
        self._add("tokens", self.spec.tokens_per_step)
        for rank, count in counts(record["takers"]).items():
            self._add("micro_batches", count, tag=str(rank))

    def read(self, last: bool = False) -> Reading:
        """Return all current numbers; the `last` call waits for no late records."""
        self._ask_feeder()
        with self.lock:
            now = time.monotonic()
            self._update_account(now + self.clock_offset - (0 if last else LATE_SECONDS))
            self._set_ages(now)
            for source, label, (rows, _) in zip(
                self.order.seen(self.data_steps * self.spec.samples_per_step), self.sources, self.order.splits, strict=True
            ):
                self.values["source_tokens", label] = source * self.spec.model.context
                self.values["source_epochs", label] = source / rows
            durations, self.durations = self.durations, []
            return Reading(dict(self.values), {"step_duration_seconds": durations})

    def _update_account(self, until: float) -> None:
        """Let the account take everything until `until`."""
        self.late_records.sort(key=lambda record: record["time"])
        while self.late_records and self.late_records[0]["time"] <= until:
            self.account.add(self.late_records.pop(0))
        parts = self.account.parts(until)
        self.values |= {("time_seconds", part): seconds for part, seconds in parts.items()}
        if (goodput := goodput_of(parts)) is not None:
            self._set(goodput=goodput)

    def _set_ages(self, now: float) -> None:
        steps, evaluations, least = PATIENCE
        every = self.spec.train.checkpoint_every
        old = AUTO_SECONDS if every == "auto" else max(OVERDUE_SECONDS, OVERDUE * every * self.pace)
        self._set(
            driver_silence_seconds=now - self.heard_at,
            step_age_seconds=now - self.stepped_at,
            stalled_after_seconds=max(least, steps * self.pace, evaluations * self.evaluation),
            checkpoint_age_seconds=now - max(self.saved_at, self.began),
            checkpoint_old_after_seconds=old,
        )

    def _ask_feeder(self) -> None:
        """Take the feeder's last answer, if there is one, and ask again without waiting."""
        import ray  # not above: the driver finds the cluster's token before it imports Ray, which reads the token once

        with suppress(Exception):
            if self.pending_answer is None:
                self.pending_answer = self.feeder.stats.remote()
            elif ray.wait([self.pending_answer], timeout=0)[0]:
                answered, self.pending_answer = self.pending_answer, None
                answer = ray.get(answered)
                with self.lock:
                    self._set(**answer)
