"""TensorBoard's event files: a run's curves, how they are laid out, and marks where something happened.

Custom Scalars show what belongs together in one picture. An event is a text, and a jump of the number of its kind: a vertical
line at its step.

Values are added in memory, and written by whoever calls `store`: where storage fails or stalls, the run goes on, and what waits
is written later.

Steps that are done again replace those before: a group begins a session there, from which on TensorBoard forgets what it has.
"""

from __future__ import annotations

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
from foundray.runs.run import Run
from foundray.storage import reading, writing
from foundray.training.telemetry.event_file import EventFile, file_name, framed

UPLOAD_SECONDS = 30.0
AGAIN_SECONDS = 30.0
"""Until storage that refused is asked again."""
CLOSE_SECONDS = 30.0
"""That the end of a run waits for storage that stalls."""
WAITING = 100_000
"""Values that wait at most; of more, the newest."""
SCALARS = ("loss", "lr", "grad_norm", "tokens_per_s", "workers")
MEASURED = ("bits_per_byte", "feature_spread", "effective_rank")
"""In an evaluation, beside the loss."""
MARKS = {
    "faults": kinds(Trait.FAULT_MARK),
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
    """Event files are local: for elsewhere, they are copied up now and then."""

    def __init__(self, run: Run, events: Iterable[dict[str, Any]]):
        """`events` are those of commands before."""
        self.layout = framed(_event(_layout(), 0))
        self.target = run.folder / "tensorboard"
        self.scratch: tempfile.TemporaryDirectory[str] | None = None
        self.file: EventFile | None = None
        self.added: deque[bytes] = deque(maxlen=WAITING)
        self.taken: list[bytes] = []
        """From `added`, by whoever writes."""
        before = [event for event in events if _mark(event)]
        self.marked = Counter(_mark(event) for event in before)
        self.marks = deque(before, maxlen=REMEMBERED)
        """The last events that have a mark."""
        self.step = 0
        self.uploaded = time.monotonic()
        self.lock = threading.Lock()
        """Of whoever writes."""
        self.again = 0.0
        """Not to be tried before."""
        self.closed = False
        self.news: deque[str] = deque()
        """Sentences that are to be told."""
        self.told = False
        """Whether it was told that storage refuses."""

    def add_step(self, record: dict[str, Any]) -> None:
        self.step = record["step"]
        computing = record["step_s"] - record["data_wait_s"]
        times = {"computing_s": computing, "data_wait_s": record["data_wait_s"], "copying_s": record["copy_s"]}
        values = {f"train/{name}": record[name] for name in SCALARS} | {f"time/{name}": value for name, value in times.items()}
        self._add_scalars(values, self.step)

    def add_event(self, event: dict[str, Any]) -> None:
        if event["event"] == "evaluated":
            self.step = event["step"]
            measured = {"loss": event["val_loss"], **{name: event.get(name) for name in MEASURED}}
            values = {f"validation/{name}": value for name, value in measured.items() if value is not None}
            self._add_scalars(values, self.step)
        if event["event"] == "workers_started":
            self._begin_session(event["step"] + 1)
        if _mark(event):
            event = {"step": self.step, **event}
            self.marks.append(event)
            self._add_mark(event)

    def _begin_session(self, step: int) -> None:
        """Make TensorBoard forget what it has from a step on, which comes again; what happened there is told again."""
        from tensorboard.compat.proto.event_pb2 import Event, SessionLog

        self.added.append(framed(Event(session_log=SessionLog(status=SessionLog.START), step=step)))
        again = [event for event in self.marks if event.get("step", 0) >= step]
        self.marked.subtract(_mark(event) for event in again)
        for event in again:
            self._add_mark(event)

    def _add_mark(self, event: dict[str, Any]) -> None:
        mark, step = _mark(event), event.get("step", 0)
        self._add_scalars({f"events/{mark}": self.marked[mark]}, step)
        self.marked[mark] += 1
        self._add_scalars({f"events/{mark}": self.marked[mark]}, step)
        told = "; ".join(f"{name}: {value}" for name, value in event.items() if name not in ("event", "time", "step"))
        self.added.append(framed(_event(_text(f"events/{mark}", f"**{event['event']}** {told}"), step)))

    def _add_scalars(self, values: dict[str, float], step: int) -> None:
        """All of them in one record, since each costs a checksum."""
        from tensorboard.compat.proto.summary_pb2 import Summary

        scalars = [Summary.Value(tag=tag, simple_value=value) for tag, value in values.items()]
        self.added.append(framed(_event(Summary(value=scalars), step)))

    def store(self) -> None:
        """Write what was added, and where storage is remote and it is time, copy it there. Raises nothing."""
        with self.lock:
            if not self.closed and time.monotonic() >= self.again:
                self._store(time.monotonic() - self.uploaded > UPLOAD_SECONDS)

    def close(self) -> None:
        """Write the rest, if storage takes it now; `news` says where it does not. Raises nothing."""
        if not self.lock.acquire(timeout=CLOSE_SECONDS):
            self.news.append(f"{self.target} does not answer: TensorBoard lacks the last of the run's curves")
            return
        try:
            self.closed = True
            if problem := self._store(True):
                self.news.append(f"TensorBoard lacks the last of the run's curves: {problem}")
            with suppress(OSError):
                if self.file:
                    self.file.close()
                if self.scratch:
                    self.scratch.cleanup()
        finally:
            self.lock.release()

    def _store(self, upload: bool) -> str:
        """The problem, if there is one."""
        try:
            with writing(self.target if self.target.is_local else "a temporary file"):
                self._write()
            if self.scratch and upload:
                self._upload(Path(self.scratch.name))
        except FoundrayError as error:
            self.again = time.monotonic() + AGAIN_SECONDS
            if not (self.told or self.closed):
                self.told = True
                wait = f"wait ({WAITING:,} values at most) and are tried again every {AGAIN_SECONDS:.0f} s"
                self.news.append(f"TensorBoard's curves {wait}: {error}")
            return str(error)
        return ""

    def _write(self) -> None:
        while self.added:
            self.taken.append(self.added.popleft())
        del self.taken[:-WAITING]
        if not self.taken:
            return
        if self.file is None or self.file.broken:
            self.file = self._begin()
        self.file.append(b"".join(self.taken))
        self.taken.clear()

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
    """Which curves are in one picture, for the plugin of custom scalars."""
    from tensorboard.plugins.custom_scalar import layout_pb2, metadata

    charts = [
        layout_pb2.Chart(title=title, multiline=layout_pb2.MultilineChartContent(tag=[f"^{tag}$" for tag in tags]))
        for title, tags in LAYOUT["Run"].items()
    ]
    layout = layout_pb2.Layout(category=[layout_pb2.Category(title="Run", chart=charts)])
    return _written(metadata.CONFIG_SUMMARY_TAG, layout.SerializeToString(), metadata.create_summary_metadata())


def _text(tag: str, text: str) -> Any:
    """Under a tag of its own, since TensorBoard takes a tag for one kind of value."""
    from tensorboard.plugins.text import metadata

    return _written(f"{tag}/text_summary", text.encode(), metadata.create_summary_metadata("", ""))


def _written(tag: str, content: bytes, metadata: Any) -> Any:
    """A value that is text, or a plugin's own bytes."""
    from tensorboard.compat.proto.summary_pb2 import Summary
    from tensorboard.compat.proto.tensor_pb2 import TensorProto

    tensor = TensorProto(dtype="DT_STRING", string_val=[content])
    return Summary(value=[Summary.Value(tag=tag, metadata=metadata, tensor=tensor)])
