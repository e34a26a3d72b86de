"""TensorBoard's event files: a run's curves, their layout, and marks for events.

Custom Scalars show related curves in one picture. An event is a text, and a jump in the number of events of its kind: a
vertical line at its step.

Values are queued in memory and written by the thread that calls `store`: if storage fails or stalls, the run continues and the
values are written later.

Repeated steps replace earlier ones: a group begins a session, from whose step on TensorBoard forgets what it has.
"""

from __future__ import annotations

import html
import tempfile
import threading
import time
from collections import Counter, deque
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

from foundray.errors import FoundrayError
from foundray.records.schema import kinds
from foundray.records.traits import Trait
from foundray.records.values import evaluation_values, step_values
from foundray.runs.run import Run
from foundray.storage import reading, writing
from foundray.training.telemetry.event_file import EventFile, file_name, framed
from foundray.training.telemetry.images import image_events

UPLOAD_SECONDS = 30.0
RETRY_SECONDS = 30.0
"""Wait after storage refused a write."""
CLOSE_SECONDS = 30.0
"""Limit for the end of a run to wait for storage that stalls."""
MAX_QUEUED = 100_000
"""Maximum values queued; beyond it the oldest are dropped."""
MARKS = {
    "faults": kinds(Trait.FAULT_MARK),
    "groups": ("workers_started",),
    "checkpoints": ("checkpoint",),
}
"""Kinds of marks, and the events that make them."""
LOOKS_QUEUED = 100
"""Maximum evaluations whose pictures wait for storage."""
MARKS_KEPT = 1000
"""Marks that are repeated if the run returns to before them: more than lie after any checkpoint."""
LAYOUT = {
    "Run": {
        "Loss: training and validation": ["train/loss", "validation/loss"],
        "Seconds per step, by part": ["time/computing_s", "time/data_wait_s", "time/copying_s"],
        "Throughput, tokens per second": ["train/tokens_per_s"],
        "Workers in the group": ["train/workers"],
        "What happened: each jump is one more": [f"events/{mark}" for mark in MARKS],
    }
}


class Curves:
    """Event files are local; for remote storage they are uploaded from time to time."""

    def __init__(self, run: Run, events: Iterable[dict[str, Any]]):
        """`events` are those of earlier commands."""
        self.layout = framed(_event(_layout(), 0))
        self.run_folder, self.target = run.folder, run.folder / "tensorboard"
        self.scratch: tempfile.TemporaryDirectory[str] | None = None
        self.file: EventFile | None = None
        self.queued: deque[bytes] = deque(maxlen=MAX_QUEUED)
        self.looks: deque[int] = deque(maxlen=LOOKS_QUEUED)
        """Steps whose reconstructions are still to be read from storage, by the writing thread."""
        self.batch: list[bytes] = []
        """Values taken from `queued` by the writing thread."""
        before = [event for event in events if _mark(event)]
        self.marked = Counter(_mark(event) for event in before)
        self.marks = deque(before, maxlen=MARKS_KEPT)
        """The last events with a mark."""
        self.step = 0
        self.uploaded = time.monotonic()
        self.lock = threading.Lock()
        """Held by the writing thread."""
        self.retry_at = 0.0
        """Time before which storage is not tried again."""
        self.closed = False
        self.messages: deque[str] = deque()
        """Sentences to report."""
        self.failure_reported = False
        """Whether a failure was reported."""

    def add_step(self, record: dict[str, Any]) -> None:
        self.step = record["step"]
        self._add_scalars(step_values(record), self.step)

    def add_event(self, event: dict[str, Any]) -> None:
        if event["event"] == "evaluated":
            self.step = event["step"]
            self._add_scalars(evaluation_values(event), self.step)
            for number, one in enumerate(event.get("texts") or (), 1):
                self.queued.append(framed(_event(_text(f"texts/{number}", _continuation(one)), self.step)))
            if event.get("reconstructions"):
                self.looks.append(self.step)
        if event["event"] == "workers_started":
            self._begin_session(event["step"] + 1)
        if _mark(event):
            event = {"step": self.step, **event}
            self.marks.append(event)
            self._add_mark(event)

    def _begin_session(self, step: int) -> None:
        """Make TensorBoard forget everything from `step` on, which is repeated, and add that part's marks again."""
        from tensorboard.compat.proto.event_pb2 import Event, SessionLog

        self.queued.append(framed(Event(session_log=SessionLog(status=SessionLog.START), step=step)))
        repeated = [event for event in self.marks if event.get("step", 0) >= step]
        self.marked.subtract(_mark(event) for event in repeated)
        for event in repeated:
            self._add_mark(event)

    def _add_mark(self, event: dict[str, Any]) -> None:
        # Two values at one step draw a vertical line; the text says what happened.
        mark, step = _mark(event), event.get("step", 0)
        self._add_scalars({f"events/{mark}": self.marked[mark]}, step)
        self.marked[mark] += 1
        self._add_scalars({f"events/{mark}": self.marked[mark]}, step)
        details = "; ".join(f"{name}: {value}" for name, value in event.items() if name not in ("event", "time", "step"))
        self.queued.append(framed(_event(_text(f"events/{mark}", f"**{event['event']}** {details}"), step)))

    def _add_scalars(self, values: dict[str, float], step: int) -> None:
        """Add all values in one record, since each record costs a checksum."""
        from tensorboard.compat.proto.summary_pb2 import Summary

        scalars = [Summary.Value(tag=tag, simple_value=value) for tag, value in values.items()]
        self.queued.append(framed(_event(Summary(value=scalars), step)))

    def store(self) -> None:
        """Write what is queued and, if storage is remote and it is time, upload it. Raises nothing."""
        with self.lock:
            if not self.closed and time.monotonic() >= self.retry_at:
                self._store(time.monotonic() - self.uploaded > UPLOAD_SECONDS)

    def close(self) -> None:
        """Write the rest if storage takes it now; `messages` says if it does not. Raises nothing."""
        if not self.lock.acquire(timeout=CLOSE_SECONDS):
            self.messages.append(f"{self.target} does not answer: TensorBoard lacks the last of the run's curves")
            return
        try:
            self.closed = True
            if problem := self._store(True):
                self.messages.append(f"TensorBoard lacks the last of the run's curves: {problem}")
            with suppress(OSError):
                if self.file:
                    self.file.close()
                if self.scratch:
                    self.scratch.cleanup()
        finally:
            self.lock.release()

    def _store(self, upload: bool) -> str:
        """Write, and upload if asked; return the problem, if any."""
        try:
            with writing(self.target if self.target.is_local else "a temporary file"):
                self._write()
            if self.scratch and upload:
                self._upload(Path(self.scratch.name))
        except FoundrayError as error:
            self.retry_at = time.monotonic() + RETRY_SECONDS
            if not (self.failure_reported or self.closed):
                self.failure_reported = True
                wait = f"wait ({MAX_QUEUED:,} values at most) and are tried again every {RETRY_SECONDS:.0f} s"
                self.messages.append(f"TensorBoard's curves {wait}: {error}")
            return str(error)
        return ""

    def _write(self) -> None:
        while self.looks:
            self.queued += [framed(one) for one in image_events(self.run_folder, self.looks.popleft())]
        while self.queued:
            self.batch.append(self.queued.popleft())
        del self.batch[:-MAX_QUEUED]
        if not self.batch:
            return
        if self.file is None or self.file.broken:
            self.file = self._begin()
        self.file.append(b"".join(self.batch))
        self.batch.clear()

    def _begin(self) -> EventFile:
        if not self.target.is_local and self.scratch is None:
            self.scratch = tempfile.TemporaryDirectory()
        folder = Path(self.scratch.name if self.scratch else self.target.path)
        others = {child.name for child in self.target.children()} | {file.name for file in folder.glob("*")}
        return EventFile(folder / file_name(others), self.layout)

    def _upload(self, folder: Path) -> None:
        self.uploaded = time.monotonic()
        for file in folder.glob("*"):
            with reading(file):
                content = file.read_bytes()
            (self.target / file.name).write_bytes(content)


def _mark(event: dict[str, Any]) -> str | None:
    return next((mark for mark, kinds in MARKS.items() if event["event"] in kinds), None)


def _event(summary: Any, step: int) -> Any:
    from tensorboard.compat.proto.event_pb2 import Event

    return Event(summary=summary, step=step)


def _layout() -> Any:
    """Which curves share a picture, for the custom-scalars plugin."""
    from tensorboard.plugins.custom_scalar import layout_pb2, metadata

    charts = [
        layout_pb2.Chart(title=title, multiline=layout_pb2.MultilineChartContent(tag=[f"^{tag}$" for tag in tags]))
        for title, tags in LAYOUT["Run"].items()
    ]
    layout = layout_pb2.Layout(category=[layout_pb2.Category(title="Run", chart=charts)])
    return _tensor_value(metadata.CONFIG_SUMMARY_TAG, layout.SerializeToString(), metadata.create_summary_metadata())


def _continuation(found: dict[str, str]) -> str:
    """A prompt and its continuation as Markdown, in which text stands as it is."""
    quoted = [html.escape(found[name]).replace("\n", "<br>") for name in ("prompt", "text")]
    return f"**{quoted[0]}**{quoted[1]}"


def _text(tag: str, text: str) -> Any:
    """Make a text value under a separate tag, since TensorBoard takes a tag for one kind of value."""
    from tensorboard.plugins.text import metadata

    return _tensor_value(f"{tag}/text_summary", text.encode(), metadata.create_summary_metadata("", ""))


def _tensor_value(tag: str, content: bytes, metadata: Any) -> Any:
    """Make a value that is text or a plugin's own bytes."""
    from tensorboard.compat.proto.summary_pb2 import Summary
    from tensorboard.compat.proto.tensor_pb2 import TensorProto

    tensor = TensorProto(dtype="DT_STRING", string_val=[content])
    return Summary(value=[Summary.Value(tag=tag, metadata=metadata, tensor=tensor)])
