"""A worker's side of a stream: leases micro-batches from the feeder and opens them, without Ray Data."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import ray

from foundray.cluster.remote import Remote
from foundray.data.stream.plan import StreamPlan, open_parcel

TRAINING = "train"
"""Name of the training stream."""
SMOOTHING = 0.3
"""Weight of the newest micro-batch in a worker's running mean of seconds per micro-batch."""
EVALUATION_BATCH = 32
"""Fewest samples per evaluation batch: without gradients, more fit than in training."""


@dataclass
class Lease:
    """Micro-batches of one or more steps, in order, each in a parcel."""

    until: int
    """The worker has received its whole share of all steps before this one."""
    micro_batches: list[int] = field(default_factory=list)
    """Positions in the stream."""
    parcels: list[tuple[int, int, list[Any]]] = field(default_factory=list)
    """(first micro-batch, micro-batches, [reference]) of the parcels that hold them."""


class FeederHandle(Protocol):
    """The feeder, as other processes call it."""

    prefetch: Remote[[StreamPlan, int, int, int]]
    begin: Remote[[int]]
    open: Remote[[int, str, StreamPlan, int, int, int]]
    lease: Remote[[int, str, int, int, float]]
    stats: Remote[[]]
    close: Remote[[int, str]]


class MicroBatchSource:
    """Iterates over a worker's micro-batches, step by step. Requests the next lease in advance."""

    def __init__(
        self,
        feeder: FeederHandle,
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
        self.pending: deque[int] = deque()
        """Micro-batches of the lease that are not computed yet."""
        self.opened: tuple[int, list[bytes]] = (-1, [])
        """The current parcel: its first micro-batch, and the payloads."""
        self.waited = 0.0
        """Seconds spent waiting for data since the last `take_waited`."""
        self.pace = 0.0
        """Running mean of this worker's seconds per micro-batch; 0 before the first."""
        self.requested = (first_step, self._request(first_step))
        """The step of the lease requested in advance, and the reply."""

    def step(self, step: int) -> Iterator[tuple[int, bytes]]:
        """Yield (position in the stream, payload) of this worker's micro-batches of the step."""
        while True:
            # Request the next step's lease before the last micro-batches of this one, so that the worker need not wait.
            if self.lease.until == step + 1 and self.requested[0] != step + 1:
                self.requested = (step + 1, self._request(step + 1))
            # Yield the step's pending micro-batches, and measure waiting and computing.
            while self.pending and self.pending[0] < (step + 1) * self.per_step:
                began = time.perf_counter()
                position = self.pending.popleft()
                payload = self._payload(position)
                computing = time.perf_counter()
                self.waited += computing - began
                yield position, payload
                seconds = time.perf_counter() - computing
                self.pace = seconds if not self.pace else (1 - SMOOTHING) * self.pace + SMOOTHING * seconds
            if self.lease.until > step:
                return
            # More may be left of this step: wait for the next lease.
            began = time.perf_counter()
            requested_step, reply = self.requested
            self.lease = ray.get(reply if requested_step == step else self._request(step))
            self.pending, self.requested = deque(self.lease.micro_batches), (-1, None)
            self.waited += time.perf_counter() - began

    def _request(self, step: int) -> Any:
        return self.feeder.lease.remote(self.generation, self.name, step, self.rank, self.pace)

    def _payload(self, position: int) -> bytes:
        first, payloads = self.opened
        if not first <= position < first + len(payloads):
            first, refs = next((f, refs) for f, count, refs in self.lease.parcels if f <= position < f + count)
            self.opened = opened, payloads = open_parcel(ray.get(refs[0]))
            assert opened == first, f"received parcel {opened} instead of {first}"
        return payloads[position - first]

    def take_waited(self) -> float:
        """Return the seconds spent waiting for data, and reset them."""
        waited, self.waited = self.waited, 0.0
        return waited

    def close(self) -> None:
        """Close the stream, after all workers have what they need of it: rank 0 does, for all."""
        if self.rank == 0:
            ray.get(self.feeder.close.remote(self.generation, self.name))


def validation_plan(plan: StreamPlan, coupled: bool) -> StreamPlan:
    """Plan of the same data's validation split; micro-batches are larger unless the loss depends on their size (`coupled`)."""
    size = plan.micro_batch_size
    return replace(plan, validation=True, micro_batch_size=size if coupled else size * -(-EVALUATION_BATCH // size))
