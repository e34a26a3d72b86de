"""The workers' handles, and the calls under way; their answers become the protocol's events."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import ray
from ray.exceptions import RayError

from foundray.cluster.connect import node_name
from foundray.training.elastic.messages import Work, WorkerHandle
from foundray.training.elastic.prestart import Prestarted, start_worker
from foundray.training.protocol.messages import Event, Gone, Halted, HandedOver, HandOver, Heard, Status
from foundray.training.slots.slot import Slot

WATCH_SECONDS, WATCHES_PER_SECOND = 1.0, 200
"""A worker without news answers after a second. With more than 200 workers it waits longer, so that no more answers than these
arrive per second.
"""
TOGETHER_SECONDS, WORKERS_TOGETHER = 0.1, 10_000
"""After the first answer, others are waited for this long if there are a thousand workers, and less if there are fewer: what
follows costs a look at each worker.
"""
HALT_SECONDS = 60.0
"""Limit for a worker to leave a broken group: it finishes its micro-batch."""


@dataclass(frozen=True)
class KnownWorker:
    handle: WorkerHandle
    slot: Slot
    node: str
    """The node's name, for people."""


@dataclass(frozen=True)
class _Call:
    answered: Callable[[Any], Event | None]
    failed: Callable[[RayError], Event | None]


class Workers:
    def __init__(self, work: Work, prestarted: Prestarted | None = None):
        """`prestarted` holds workers that are already started; nobody else can take their slots."""
        self.work, self.prestarted = work, prestarted
        self.of: dict[int, KnownWorker] = {}
        self.calls: dict[Any, _Call] = {}
        """Calls under way, by reference."""

    def start(self, number: int, slot: Slot) -> None:
        handle = (self.prestarted.take(slot) if self.prestarted else None) or start_worker(slot)
        handle.begin.remote(self.work)
        self.of[number] = KnownWorker(handle, slot, node_name(slot.node))
        self._watch(number, 0)

    def end_prestart(self) -> None:
        """Kill the prestarted workers that were not taken."""
        if self.prestarted:
            self.prestarted.close()
            self.prestarted = None

    def dismiss(self, number: int) -> None:
        with suppress(RayError):
            ray.kill(self.of.pop(number).handle)

    def call(self, ref: Any, answered: Callable[[Any], Event | None], failed: Callable[[RayError], Event | None]) -> None:
        """Turn the answer of a call into an event once it is there."""
        self.calls[ref] = _Call(answered, failed)

    def listen(self, seconds: float) -> list[Event]:
        """Take the answers that are there, waiting for the first one for `seconds` at most."""
        if not self.calls:
            time.sleep(seconds)
            return []
        if not ray.wait(list(self.calls), num_returns=1, timeout=seconds)[0]:
            return []
        time.sleep(min(TOGETHER_SECONDS, len(self.of) / WORKERS_TOGETHER))
        events = []
        for ref in ray.wait(list(self.calls), num_returns=len(self.calls), timeout=0)[0]:
            call = self.calls.pop(ref)
            try:
                event = call.answered(ray.get(ref))
            except RayError as error:
                event = call.failed(error)
            if event is not None:
                events.append(event)
        return events

    # Calls

    def _watch(self, number: int, version: int) -> None:
        """Ask for the worker's next status."""
        seconds = max(WATCH_SECONDS, len(self.of) / WATCHES_PER_SECOND)

        def answered(status: Status) -> Event | None:
            if number not in self.of:
                return None
            self._watch(number, status.version)
            return Heard(number, status)

        self.call(self.of[number].handle.watch.remote(version, seconds), answered, self._gone(number))

    def halt(self, attempt: int, number: int) -> None:
        """Ask whether the worker is alive, and, in another call, to stop what is under way."""
        handle = self.of[number].handle
        self.call(handle.watch.remote(-1, 0.0), lambda status: Heard(number, status), self._gone(number))
        halted = handle.halt.remote(attempt, HALT_SECONDS)
        self.call(halted, lambda answer: Halted(attempt, number, answer[0], tuple(answer[1])), self._gone(number))

    def hand_over(self, wanted: HandOver) -> None:
        """Let a worker copy state shards to another one."""
        attempt, number, to, shards = wanted
        if to in self.of:
            copied = self.of[number].handle.hand_over.remote(self.of[to].handle, shards)
            # If the successor is gone, that is known by its own calls.
            self.call(copied, lambda _: HandedOver(attempt, number, shards), lambda _: HandedOver(attempt, number, ()))

    def _gone(self, number: int) -> Callable[[RayError], Event | None]:
        return lambda error: Gone(number, type(error).__name__)

    def close(self) -> None:
        for worker in self.of.values():
            with suppress(RayError):
                ray.kill(worker.handle)
