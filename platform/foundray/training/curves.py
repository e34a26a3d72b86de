"""TensorBoard's event files: a run's curves, how they are laid out, and marks where something happened.

Custom Scalars show what belongs together in one picture. An event is a text, and a jump of the number of its kind: a vertical
line at its step.

Steps that are done again replace those before: a group begins a session there, from which on TensorBoard forgets what it has.
"""

from __future__ import annotations

import tempfile
import time
from collections import Counter, deque
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

from foundray.errors import InputError
from foundray.run import Run

UPLOAD_SECONDS = 30.0
SCALARS = ("loss", "lr", "grad_norm", "tokens_per_s", "workers")
MEASURED = ("bits_per_byte", "feature_spread", "effective_rank")
"""In an evaluation, beside the loss."""
MARKS = {
    "faults": ("group_broken", "too_few", "rolled_back", "left_out", "checkpoint_failed", "checkpoint_skipped", "prune_failed"),
    "groups": ("workers_started",),
    "checkpoints": ("checkpoint",),
}
"""Kinds of marks, and the events that make them."""
REMEMBERED = 1000
"""Marks that are told again if the run goes back to before them: more than lie after any checkpoint."""
LAYOUT = {
    "Run": {
        "Loss: training and validation": ["train/loss", "validation/loss"],
        "Seconds of a step, by part": ["time/computing_s", "time/data_wait_s", "time/copying_s"],
        "Throughput, tokens a second": ["train/tokens_per_s"],
        "Workers in the group": ["train/workers"],
        "What happened: each jump is one more": [f"events/{mark}" for mark in MARKS],
    }
}


class Curves:
    """The writer knows local folders only: for elsewhere, files are copied up now and then."""

    def __init__(self, run: Run, events: Iterable[dict[str, Any]]):
        """`events` are those of commands before."""
        from tensorboardX import SummaryWriter

        self.target = run.folder / "tensorboard"
        self.scratch = None if self.target.is_local else tempfile.TemporaryDirectory()
        self.folder = Path(self.scratch.name if self.scratch else self.target.path)
        self.writer = SummaryWriter(str(self.folder))
        charts = {title: ["Multiline", [f"^{tag}$" for tag in tags]] for title, tags in LAYOUT["Run"].items()}
        self.writer.add_custom_scalars({"Run": charts})
        before = [event for event in events if _mark(event)]
        self.marked = Counter(_mark(event) for event in before)
        self.marks = deque(before, maxlen=REMEMBERED)
        """The last events that have a mark."""
        self.step = 0
        self.uploaded = time.monotonic()

    def add_step(self, record: dict[str, Any]) -> None:
        self.step = record["step"]
        computing = record["step_s"] - record["data_wait_s"]
        times = {"computing_s": computing, "data_wait_s": record["data_wait_s"], "copying_s": record["copy_s"]}
        self._scalars("train", {name: record[name] for name in SCALARS})
        self._scalars("time", times)

    def add_event(self, event: dict[str, Any]) -> None:
        if event["event"] == "evaluated":
            self.step = event["step"]
            measured = {"loss": event["val_loss"], **{name: event.get(name) for name in MEASURED}}
            self._scalars("validation", {name: value for name, value in measured.items() if value is not None})
        if event["event"] == "workers_started":
            self._begin_session(event["step"] + 1)
        if _mark(event):
            event = {"step": self.step, **event}
            self.marks.append(event)
            self._add_mark(event)

    def _begin_session(self, step: int) -> None:
        """Make TensorBoard forget what it has from a step on, which comes again; what happened there is told again."""
        from tensorboardX.proto.event_pb2 import Event, SessionLog

        self.writer.file_writer.add_event(Event(session_log=SessionLog(status=SessionLog.START)), step)
        again = [event for event in self.marks if event.get("step", 0) >= step]
        self.marked.subtract(_mark(event) for event in again)
        for event in again:
            self._add_mark(event)

    def _add_mark(self, event: dict[str, Any]) -> None:
        mark, step = _mark(event), event.get("step", 0)
        self.writer.add_scalar(f"events/{mark}", self.marked[mark], step)
        self.marked[mark] += 1
        self.writer.add_scalar(f"events/{mark}", self.marked[mark], step)
        told = "; ".join(f"{name}: {value}" for name, value in event.items() if name not in ("event", "time", "step"))
        self.writer.add_text(f"events/{mark}", f"**{event['event']}** {told}", step)

    def _scalars(self, group: str, values: dict[str, float]) -> None:
        for name, value in values.items():
            self.writer.add_scalar(f"{group}/{name}", value, self.step)

    def upload(self) -> None:
        """Where storage is remote, and it is time."""
        if self.scratch and time.monotonic() - self.uploaded > UPLOAD_SECONDS:
            with suppress(InputError):
                self._upload()

    def _upload(self) -> None:
        self.writer.flush()
        self.uploaded = time.monotonic()
        for file in self.folder.iterdir():
            (self.target / file.name).write_bytes(file.read_bytes())

    def close(self) -> None:
        self.writer.close()
        if self.scratch:
            self._upload()
            self.scratch.cleanup()


def _mark(event: dict[str, Any]) -> str | None:
    return next((mark for mark, kinds in MARKS.items() if event["event"] in kinds), None)
