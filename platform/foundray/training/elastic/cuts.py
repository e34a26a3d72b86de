"""Reads the cuts in a run's log, where another command may have recorded some, in a thread: storage may stall."""

from __future__ import annotations

import time
from concurrent.futures import Future, ThreadPoolExecutor

from foundray.errors import InputError
from foundray.records.reader import Reader, Shorter
from foundray.runs import lineage
from foundray.runs.lineage import Event as Record
from foundray.storage import Store
from foundray.training import rollback
from foundray.training.protocol.messages import CutsRead, Event

DECIDING = {"rolled_back", "left_out", "extended", "branched"}
"""Kinds of events from which cuts and roll-backs follow."""
RETRY_SECONDS = 1.0


class CutReader:
    """Answers the protocol's requests to read the cuts."""

    def __init__(self, run: Store):
        self.run, self.reader = run, Reader(run, "events")
        self.is_behind = True
        """Whether the log may hold events that `found` lacks."""
        self.found: list[Record] = []
        self.thread = ThreadPoolExecutor(1)
        self.asked = 0
        self.reading: tuple[int, Future[bool]] | None = None
        self.retry_at = 0.0

    def ask(self, asked: int) -> None:
        """Have the log read, as it is at this time or later."""
        self.asked, self.retry_at = asked, 0.0
        self._begin()

    @property
    def is_reading(self) -> bool:
        return self.reading is not None

    def _begin(self) -> None:
        if self.reading is None and self.asked and time.monotonic() >= self.retry_at:
            self.reading = self.asked, self.thread.submit(self._read)

    def poll(self) -> list[Event]:
        """What the log says, once it is read."""
        self._begin()
        if self.reading is None or not self.reading[1].done():
            return []
        (asked, future), self.reading = self.reading, None
        if not future.result():
            self.retry_at = time.monotonic() + RETRY_SECONDS
            return []
        if asked == self.asked:
            self.asked = 0
        return [CutsRead(asked, lineage.recorded(self.found), rollback.recorded(self.found))]

    def _read(self) -> bool:
        """Read what is new, and all if that decides anything; False if storage does not answer.

        In an object store, what arrives late may stand before what was read: the log's order is what every later command reads.
        """
        try:
            new = [record["event"] for record in self.reader.new()]
            self.is_behind = self.is_behind or not DECIDING.isdisjoint(new)
            if self.is_behind:
                self.found = [record for record in Reader(self.run, "events").new() if record["event"] in DECIDING]
                self.is_behind = False
        except (InputError, Shorter):
            self.reader, self.is_behind = Reader(self.run, "events"), True
            return False
        return True

    def close(self) -> None:
        self.thread.shutdown(wait=False, cancel_futures=True)
