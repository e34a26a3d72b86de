"""A run's numbers for Prometheus: what they are called, and what follows for them from the run's records.

Ages are told instead of times, since the clocks of a run and of Prometheus are not one. What "too long" means for a run
follows from its own pace, and is a number beside the others: alert rules compare the two.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any, Literal

from foundray.records.schema import kinds
from foundray.records.takers import counts
from foundray.records.traits import Trait
from foundray.runs.goodput import Account
from foundray.runs.restarts import Restarts
from foundray.spec import Spec
from foundray.training.telemetry.exporter import Key, Reading

if TYPE_CHECKING:
    from foundray.data.stream.plan import StreamPlan

LATE_SECONDS = 10.0
"""So late may a record come: a new rank 0 sends again what the one before may not have."""
SMOOTHING = 0.1
"""Weight of the newest step in the running mean of seconds a step."""
PATIENCE = 20, 3, 300.0
"""A run is taken for stalled after so many steps, so many evaluations, and so many seconds without a step."""
OVERDUE, OVERDUE_SECONDS, AUTO_SECONDS = 3, 600.0, 3 * 3600.0
"""A checkpoint is old after so many intervals and at least so many seconds; without a set interval, after three hours."""
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
    "driver_silence_seconds": Metric("gauge", "Since the driver last looked for news: more than a few seconds is a fault"),
    "step": Metric("gauge", "Last optimizer step done"),
    "target_steps": Metric("gauge", "Optimizer steps in the run"),
    "step_age_seconds": Metric("gauge", "Since the last step was recorded, or the command began"),
    "stalled_after_seconds": Metric("gauge", "Step age from which the run is taken for stalled, by its own pace"),
    "loss": Metric("gauge", "Training loss of the last step, nats per token"),
    "validation_loss": Metric("gauge", "Validation loss, nats per token"),
    "validation_bits_per_byte": Metric("gauge", "The same, in bits per byte of text"),
    "effective_rank": Metric("gauge", "Effective rank of the features of validation samples: collapse shows here"),
    "gradient_norm": Metric("gauge", "Norm of the last step's whole gradient, before clipping"),
    "learning_rate": Metric("gauge", "Learning rate of the last step"),
    "step_seconds": Metric("gauge", "The last step's time on rank 0: computing, data_wait, copying (the state)", "part"),
    "step_duration_seconds": Metric("histogram", "Time of a step on rank 0, waiting for data included"),
    "tokens_per_second": Metric("gauge", "Positions trained on, a second of the last step"),
    "samples_per_second": Metric("gauge", "Samples trained on, a second of the last step"),
    "mfu": Metric("gauge", "Model FLOPs of the last step over what the hardware could do meanwhile, 0 to 1"),
    "steps": Metric("counter", "Steps done by this command, repeated ones included"),
    "tokens": Metric("counter", "Positions trained on by this command, repeated ones included"),
    "micro_batches": Metric("counter", "Micro-batches computed, by the worker's rank in its group", "worker"),
    "workers": Metric("gauge", "Workers in the group"),
    "workers_fewest": Metric("gauge", "Workers without which the run waits"),
    "workers_most": Metric("gauge", "Workers that the run would take"),
    "checkpoint_step": Metric("gauge", "Step of the last complete checkpoint"),
    "checkpoint_age_seconds": Metric("gauge", "Since the last checkpoint was complete, or the command began"),
    "checkpoint_old_after_seconds": Metric("gauge", "Checkpoint age from which something is wrong, by the run's own pace"),
    "checkpoint_seconds": Metric("gauge", "From the start of the last checkpoint to its completion"),
    "checkpoint_bytes": Metric("gauge", "Size of the last checkpoint"),
    "mirror_lag_steps": Metric("gauge", "Steps since the newest state that other workers' memories mirror"),
    "restarts": Metric("gauge", "Groups formed anew, over all commands: after a fault, or as workers came or went"),
    "steps_repeated": Metric("gauge", "Steps done again after a fault, over all commands"),
    "faults": Metric("gauge", "Faults over all commands, by kind", "kind"),
    "goodput": Metric("gauge", "Share of the run's time that went into steps that count, 0 to 1, over all commands"),
    "time_seconds": Metric("gauge", "The run's time by what it went into, over all commands", "part"),
    "skipped_micro_batches": Metric("gauge", "Micro-batches left out since their loss or gradient was not finite"),
    "not_finite": Metric("gauge", "How often a micro-batch's loss or gradient, or a validation loss, was not finite"),
    "spikes": Metric("gauge", "Steps whose loss jumped, and whose update was not made"),
    "source_tokens": Metric("gauge", "Positions of the source passed through so far", "source"),
    "source_epochs": Metric("gauge", "Times that the source's training split has been shown", "source"),
    "source_quarantined": Metric("gauge", "Rows, or other units, of the source that could not be used", "source"),
    "parcels_ready": Metric("gauge", "Parcels of micro-batches that are read and not yet taken"),
    "leases": Metric("counter", "Leases of micro-batches given to workers"),
    "leases_waiting": Metric("gauge", "Workers that wait for data"),
}  # fmt: skip
"""By name, to which `ray_foundray_` is prefixed; a counter's ends in `_total`. All have the tag `run`."""


class RunMetrics:
    """Takes a run's records, and gives what there is to tell at any time."""

    def __init__(self, spec: Spec, plan: StreamPlan, feeder: Any, step_flops: Callable[[], float]):
        """`step_flops` gives the FLOPs of a step; it is asked for them only where the hardware's are known."""
        self.spec, self.order, self.feeder, self.step_flops = spec, plan.order(), feeder, cache(step_flops)
        self.lock = threading.Lock()
        self.values: dict[Key, float] = {}
        self.durations: list[float] = []
        self.account = Account()
        self.late: list[dict[str, Any]] = []
        """Records that the account has yet to take, in order of time."""
        self.began = self.heard = self.stepped = self.saved = time.monotonic()
        self.ahead = 0.0
        """Of the records' clock before this machine's monotonic one."""
        self.restarts = Restarts()
        self.highest = self.seen = 0
        self.skipped: set[tuple[int, int]] = set()
        self.pace = self.evaluation = self.peak = 0.0
        self.asked: Any = None
        self._set(running=1, target_steps=spec.train.steps, step=0, workers=0, checkpoint_step=0, restarts=0)
        self._set(workers_fewest=spec.scale.world[0], workers_most=spec.scale.world[1])
        self._set(steps_repeated=0, spikes=0, not_finite=0, skipped_micro_batches=0)
        self.values |= {("faults", kind): 0 for kind in FAULTS}
        self.sources = [_label(index, source.path) for index, source in enumerate(spec.data.sources)]
        for index, source in enumerate(self.sources):
            self.values["source_quarantined", source] = self.order.manifest.balance(index).bad

    def begin(self, records: Iterable[dict[str, Any]]) -> None:
        """Take what commands before have recorded, in order of time."""
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
                self.seen = step["step"] + step["passed_over"]

    def take(self, records: Iterable[dict[str, Any]], now: float) -> None:
        """Take new records; `now` is the present by their clock."""
        with self.lock, suppress(Exception):  # numbers for onlookers never stop a run
            self.heard = time.monotonic()
            self.ahead = now - self.heard
            for record in records:
                self._count(record)
                if "event" in record:
                    self._take_event(record)
                else:
                    self._take_step(record)
                self.late.append(record)

    def _set(self, **values: float | None) -> None:
        self.values |= {(name, ""): value for name, value in values.items() if value is not None}

    def _add(self, name: str, amount: float = 1, tag: str = "") -> None:
        self.values[name, tag] = self.values.get((name, tag), 0) + amount

    def _count(self, record: dict[str, Any]) -> None:
        """What is counted over all commands."""
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
                self.saved = time.monotonic()
                step, seconds, size = record["step"], record["seconds"], record["bytes"]
                self._set(checkpoint_step=step, checkpoint_seconds=seconds, checkpoint_bytes=size)
            case kind if kind in ENDS_WELL:
                self._set(running=0)

    def _take_step(self, record: dict[str, Any]) -> None:
        seconds = record["step_s"]
        took = seconds + record["copy_s"]
        self.stepped, self.seen = self.heard, record["step"] + record["passed_over"]
        self.pace = took if not self.pace else (1 - SMOOTHING) * self.pace + SMOOTHING * took
        self.durations.append(seconds)
        self._set(step=record["step"], loss=record["loss"], gradient_norm=record["grad_norm"], learning_rate=record["lr"])
        self._set(tokens_per_second=record["tokens_per_s"], samples_per_second=self.spec.samples_per_step / seconds)
        self._set(workers=record["workers"], mfu=self.step_flops() / seconds / self.peak if self.peak else None)
        parts = {"computing": seconds - record["data_wait_s"], "data_wait": record["data_wait_s"], "copying": record["copy_s"]}
        self.values |= {("step_seconds", part): value for part, value in parts.items()}
        if (mirrored := record["mirrored"]) is not None:
            self._set(mirror_lag_steps=record["step"] - mirrored)
        else:  # a worker that is alone mirrors nothing
            self.values.pop(("mirror_lag_steps", ""), None)
        self._add("steps")
        self._add("tokens", self.spec.tokens_per_step)
        for rank, count in counts(record["takers"]).items():
            self._add("micro_batches", count, tag=str(rank))

    def read(self, last: bool = False) -> Reading:
        """All that there is to tell now; for the `last` time, nothing is waited for."""
        self._ask_feeder()
        with self.lock:
            now = time.monotonic()
            self._settle(now + self.ahead - (0 if last else LATE_SECONDS))
            self._set_ages(now)
            for source, label, (rows, _) in zip(
                self.order.seen(self.seen * self.spec.samples_per_step), self.sources, self.order.splits, strict=True
            ):
                self.values["source_tokens", label] = source * self.spec.model.context
                self.values["source_epochs", label] = source / rows
            durations, self.durations = self.durations, []
            return Reading(dict(self.values), {"step_duration_seconds": durations})

    def _settle(self, until: float) -> None:
        """Let the account take all that happened until then."""
        self.late.sort(key=lambda record: record["time"])
        while self.late and self.late[0]["time"] <= until:
            self.account.add(self.late.pop(0))
        parts = self.account.parts(until)
        self.values |= {("time_seconds", part): seconds for part, seconds in parts.items()}
        if whole := sum(parts.values()):
            self._set(goodput=parts["stepping"] / whole)

    def _set_ages(self, now: float) -> None:
        steps, evaluations, least = PATIENCE
        every = self.spec.train.checkpoint_every
        old = AUTO_SECONDS if every == "auto" else max(OVERDUE_SECONDS, OVERDUE * every * self.pace)
        self._set(
            driver_silence_seconds=now - self.heard,
            step_age_seconds=now - self.stepped,
            stalled_after_seconds=max(least, steps * self.pace, evaluations * self.evaluation),
            checkpoint_age_seconds=now - max(self.saved, self.began),
            checkpoint_old_after_seconds=old,
        )

    def _ask_feeder(self) -> None:
        """Take its last answer, if there is one, and ask anew; it is never waited for."""
        import ray  # not above: the driver finds the cluster's token before Ray is imported, which reads that once

        with suppress(Exception):
            if self.asked is None:
                self.asked = self.feeder.stats.remote()
            elif ray.wait([self.asked], timeout=0)[0]:
                answered, self.asked = self.asked, None
                told = ray.get(answered)
                with self.lock:
                    self._set(**told)


def _label(index: int, path: str) -> str:
    """A source's number and file name: a URL's other parts may hold a key."""
    return f"{index} {PurePosixPath(path.partition('?')[0]).name}".strip()
