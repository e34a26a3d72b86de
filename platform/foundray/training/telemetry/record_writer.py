"""The ledger: a run's records on their way to storage, in order, in a thread of their own, since storage may fail or stall."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable
from typing import Any

from foundray.errors import InputError
from foundray.records.writer import Writer
from foundray.runs.run import Run

AGAIN_SECONDS = 0.5
REMOTE_SECONDS = 5.0
"""Between two segments on an object store, which charges for each."""
FILES = ("events.jsonl", "metrics.jsonl")
"""In this order: what happened comes before the steps that followed from it."""

Record = dict[str, Any]


class RecordWriter:
    def __init__(self, run: Run, kept: int, beside: Callable[[], None]):
        """`kept` is the last step on record. `beside` is called in the same thread, now and then."""
        self.run, self.kept, self.beside = run, kept, beside
        self.problem: str | None = None
        """Why storage did not take the last records, if so."""
        self.writers = {file: Writer(run.folder, file.removesuffix(".jsonl")) for file in FILES}
        self.waiting: dict[str, list[Record]] = {file: [] for file in FILES}
        self.changed = threading.Condition()
        self.ending = self.hurried = False
        self.thread = threading.Thread(target=self._keep_writing, daemon=True)
        self.thread.start()

    def add(self, events: Iterable[Record], metrics: Iterable[Record]) -> None:
        with self.changed:
            for file, records in zip(FILES, (events, metrics), strict=True):
                self.waiting[file] += records
            self.changed.notify_all()

    def settle(self, seconds: float) -> None:
        """Wait until all is stored. Raises InputError where storage does not take it in time."""
        with self.changed:
            self.hurried = True
            self.changed.notify_all()
            done = self.changed.wait_for(lambda: not any(self.waiting.values()), seconds)
            self.hurried = False
        if not done:
            raise InputError(self.problem or f"{self.run.folder} has not answered for {seconds:.0f} s")

    def close(self, seconds: float) -> None:
        """Raises InputError where storage does not take what is left in time."""
        try:
            self.settle(seconds)
        finally:
            with self.changed:
                self.ending = True
                self.changed.notify_all()

    def abandon(self) -> None:
        """Drop what waits, and write nothing more."""
        with self.changed:
            self.waiting = {file: [] for file in FILES}
            self.ending = True
            self.changed.notify_all()

    def _keep_writing(self) -> None:
        while True:
            with self.changed:
                self.changed.wait_for(lambda: self.ending or any(self.waiting.values()))
                if self.ending:
                    return
            try:
                for file in FILES:
                    self._write(file)
                self.problem = None
            except InputError as error:
                self.problem = str(error)
                time.sleep(AGAIN_SECONDS)
            self.beside()
            if not self.run.folder.is_local:
                with self.changed:
                    self.changed.wait_for(lambda: self.ending or self.hurried, REMOTE_SECONDS)

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
                    self.kept = record["step"]
                elif record["event"] == "workers_started":  # what follows is done again, and is yet to be recorded
                    self.kept = min(self.kept, record["step"])
            self.changed.notify_all()
