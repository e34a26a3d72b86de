"""Record writer: stores a run's records in order, in a separate thread, since storage may fail or stall."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable
from typing import Any

from foundray.errors import InputError
from foundray.records.writer import Writer
from foundray.runs.run import Run

RETRY_SECONDS = 0.5
REMOTE_SECONDS = 5.0
"""Interval between two segments on an object store, which charges for each."""
FILES = ("events.jsonl", "metrics.jsonl")
"""Written in this order: events come before the steps that followed from them."""

Record = dict[str, Any]


class RecordWriter:
    def __init__(self, run: Run, stored_step: int, after_write: Callable[[], None]):
        """`stored_step` is the last step stored. `after_write` is called in the same thread after each round."""
        self.run, self.stored_step, self.after_write = run, stored_step, after_write
        self.problem: str | None = None
        """Why storage did not take the last records, if it did not."""
        self.writers = {file: Writer(run.folder, file.removesuffix(".jsonl")) for file in FILES}
        self.waiting: dict[str, list[Record]] = {file: [] for file in FILES}
        self.changed = threading.Condition()
        self.closing = self.flush_requested = False
        self.thread = threading.Thread(target=self._run, daemon=True)
        self.thread.start()

    def add(self, events: Iterable[Record], metrics: Iterable[Record]) -> None:
        with self.changed:
            for file, records in zip(FILES, (events, metrics), strict=True):
                self.waiting[file] += records
            self.changed.notify_all()

    def settle(self, seconds: float) -> None:
        """Wait until all is stored. Raises InputError if storage does not take it in time."""
        with self.changed:
            self.flush_requested = True
            self.changed.notify_all()
            done = self.changed.wait_for(lambda: not any(self.waiting.values()), seconds)
            self.flush_requested = False
        if not done:
            raise InputError(self.problem or f"{self.run.folder} has not answered for {seconds:.0f} s")

    def close(self, seconds: float) -> None:
        """Store the rest and stop. Raises InputError if storage does not take it in time."""
        try:
            self.settle(seconds)
        finally:
            with self.changed:
                self.closing = True
                self.changed.notify_all()

    def abandon(self) -> None:
        """Drop what waits, and write nothing more."""
        with self.changed:
            self.waiting = {file: [] for file in FILES}
            self.closing = True
            self.changed.notify_all()

    def _run(self) -> None:
        while True:
            with self.changed:
                self.changed.wait_for(lambda: self.closing or any(self.waiting.values()))
                if self.closing:
                    return
            try:
                for file in FILES:
                    self._write(file)
                self.problem = None
            except InputError as error:
                self.problem = str(error)
                time.sleep(RETRY_SECONDS)
            self.after_write()
            if not self.run.folder.is_local:
                with self.changed:
                    self.changed.wait_for(lambda: self.closing or self.flush_requested, REMOTE_SECONDS)

    def _write(self, file: str) -> None:
        with self.changed:
            records = list(self.waiting[file])
        if not records:
            return
        self.writers[file].append(records)
        with self.changed:
            del self.waiting[file][: len(records)]
            for record in records:
                if file == "metrics.jsonl":
                    self.stored_step = record["step"]
                elif record["event"] == "workers_started":  # later steps are repeated, and still to be recorded
                    self.stored_step = min(self.stored_step, record["step"])
            self.changed.notify_all()
