"""The journal: what workers have to tell, on its way to the driver, which alone writes the run's record.

It is one small actor that appends and hands out in the order of arrival. (Ray's own Queue is an asyncio actor, which
may run calls in another order than they were made, and a timed `get` of it can drop what arrives as its time runs out.)
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from foundray.errors import FoundrayError
from foundray.run import event

FLUSH_SECONDS = 0.5
POLL_SECONDS = 0.2

Record = dict[str, Any]


class _Buffer:
    """The actor. It runs one call after another, a caller's in the order in which they were made."""

    def __init__(self) -> None:
        self.records: list[Record] = []

    def append(self, records: list[Record]) -> None:
        self.records += records

    def take(self) -> list[Record]:
        taken, self.records = self.records, []
        return taken


def start_journal() -> Any:
    """A journal of the calling process's lifetime, beside it: while the driver is there to read, so is the journal."""
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    return ray.remote(_Buffer).options(num_cpus=0, scheduling_strategy=here).remote()


class Journal:
    """A worker's end: records are sent now and then, in order; `silent` workers' are dropped."""

    def __init__(self, buffer: Any, silent: bool):
        self.buffer, self.silent = buffer, silent
        self.pending: list[Record] = []
        self.under_way: list[Any] = []
        self.sent = 0.0

    def event(self, name: str, **fields: Any) -> None:
        self.record(event(name, **fields))
        self._send()

    def record(self, record: Record) -> None:
        if not self.silent:
            self.pending.append(record)
            if time.monotonic() - self.sent > FLUSH_SECONDS:
                self._send()

    def _send(self) -> None:
        if self.pending:
            if self.under_way:
                _, self.under_way = ray.wait(self.under_way, num_returns=len(self.under_way), timeout=0)
            self.under_way.append(self.buffer.append.remote(self.pending))
            self.pending, self.sent = [], time.monotonic()

    def close(self) -> None:
        """Wait until all records have arrived."""
        self._send()
        ray.get(self.under_way)


class JournalReader:
    """The driver's end: a thread that hands every record on, until closed and nothing is left."""

    def __init__(self, buffer: Any, write: Callable[[list[Record]], None]):
        self.buffer, self.write = buffer, write
        self.problem: FoundrayError | None = None
        """What last kept a record from being written."""
        self.ending = threading.Event()
        self.thread = threading.Thread(target=self._read, daemon=True)
        self.thread.start()

    def _read(self) -> None:
        while not self.ending.wait(POLL_SECONDS):
            self._hand_on()
        self._hand_on()

    def _hand_on(self) -> None:
        try:
            records = ray.get(self.buffer.take.remote())
        except ray.exceptions.RayError:  # the actor is gone, with Ray itself: the driver will fail on its own
            return
        try:
            self.write(records)
        except FoundrayError as error:
            self.problem = error

    def close(self) -> None:
        self.ending.set()
        self.thread.join()
