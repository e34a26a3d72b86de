"""A worker's view of a stream of micro-batches: what it leases from the feeder, opened. It does without Ray Data."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import ray

from foundray.data.stream.plan import StreamPlan, open_parcel

TRAINING = "train"
"""The name of the stream of training."""
SMOOTHING = 0.3
"""Weight of the newest micro-batch in a worker's running mean of seconds a micro-batch."""
EVALUATION_BATCH = 32
"""Samples evaluated at once, at least: without gradients more fit than in training."""


@dataclass
class Lease:
    """Micro-batches of one step or of several, in order, each in a parcel."""

    until: int
    """What falls to this worker of the steps before this one is here, or was before."""
    micro_batches: list[int] = field(default_factory=list)
    """Positions in the stream."""
    parcels: list[tuple[int, int, list[Any]]] = field(default_factory=list)
    """(first micro-batch, micro-batches, [reference]) of the parcels that hold them."""


class MicroBatchSource:
    """A worker's view of a stream: iterate over its micro-batches of a step. The next lease is asked for in advance."""

    def __init__(
        self,
        feeder: Any,
        generation: int,
        name: str,
        plan: StreamPlan,
        per_step: int,
        first_step: int,
        end: int,
        rank: int = 0,
    ):
        self.feeder, self.generation, self.name, self.rank = feeder, generation, name, rank
        ray.get(feeder.open.remote(generation, name, plan, per_step, first_step, end))
        self.per_step = per_step
        self.lease = Lease(first_step)
        self.given: deque[int] = deque()
        """Of the lease, what is yet to be computed."""
        self.opened: tuple[int, list[bytes]] = (-1, [])
        """The parcel under way: its first micro-batch, and the payloads."""
        self.waited = 0.0
        """Seconds spent waiting for data since last asked."""
        self.pace = 0.0
        """Running mean of this worker's seconds a micro-batch; 0 before the first."""
        self.under_way = (first_step, self._ask(first_step))

    def step(self, step: int) -> Iterator[tuple[int, bytes]]:
        """(position in the stream, payload) of the micro-batches of the step that fall to this worker."""
        while True:
            if self.lease.until == step + 1 and self.under_way[0] != step + 1:
                self.under_way = (step + 1, self._ask(step + 1))
            while self.given and self.given[0] < (step + 1) * self.per_step:
                began = time.perf_counter()
                position = self.given.popleft()
                payload = self._payload(position)
                computing = time.perf_counter()
                self.waited += computing - began
                yield position, payload
                took = time.perf_counter() - computing
                self.pace = took if not self.pace else (1 - SMOOTHING) * self.pace + SMOOTHING * took
            if self.lease.until > step:
                return
            began = time.perf_counter()
            asked, reply = self.under_way
            self.lease = ray.get(reply if asked == step else self._ask(step))
            self.given, self.under_way = deque(self.lease.micro_batches), (-1, None)
            self.waited += time.perf_counter() - began

    def _ask(self, step: int) -> Any:
        return self.feeder.lease.remote(self.generation, self.name, step, self.rank, self.pace)

    def _payload(self, position: int) -> bytes:
        first, payloads = self.opened
        if not first <= position < first + len(payloads):
            first, refs = next((f, refs) for f, count, refs in self.lease.parcels if f <= position < f + count)
            self.opened = opened, payloads = open_parcel(ray.get(refs[0]))
            assert opened == first, f"parcel {opened} came in place of {first}"
        return payloads[position - first]

    def take_waited(self) -> float:
        waited, self.waited = self.waited, 0.0
        return waited

    def close(self) -> None:
        ray.get(self.feeder.close.remote(self.generation, self.name))


def validation_plan(plan: StreamPlan, coupled: bool) -> StreamPlan:
    """The same data's validation split, in larger micro-batches unless their size decides what the loss is (`coupled`)."""
    size = plan.micro_batch_size
    return replace(plan, validation=True, micro_batch_size=size if coupled else size * -(-EVALUATION_BATCH // size))
