"""A worker's view of a stream of micro-batches: what it leases from the feeder, opened. It does without Ray Data."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import ray

from foundray.data.stream import StreamPlan, open_parcel

TRAINING = "train"
"""The name of the stream of training."""
SMOOTHING = 0.3
"""Weight of the newest micro-batch in a worker's running mean of seconds a micro-batch."""
EVALUATION_BATCH = 32
"""Samples evaluated at once, at least: without gradients more fit than in training."""


@dataclass
class Lease:
    """Consecutive micro-batches of one step, each in a parcel."""

    micro_batches: list[int] = field(default_factory=list)
    """Positions in the stream; empty when the step has none left."""
    parcels: list[tuple[int, int, list[Any]]] = field(default_factory=list)
    """(first micro-batch, micro-batches, [reference]) of the parcels that hold them."""
    last: bool = True
    """The step has none left after these."""


class MicroBatchSource:
    """A worker's view of a stream: iterate over its micro-batches of a step. The next step's first lease is under way."""

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
        self.parcels: dict[int, list[bytes]] = {}
        self.waited = 0.0
        """Seconds spent waiting for data since last asked."""
        self.pace = 0.0
        """Running mean of this worker's seconds a micro-batch; 0 before the first."""
        self.under_way = (first_step, self._ask(first_step))

    def step(self, step: int) -> Iterator[tuple[int, bytes]]:
        """(position in the stream, payload) of the micro-batches of the step that fall to this worker."""
        last = False
        while not last:
            began = time.perf_counter()
            asked, reply = self.under_way
            lease: Lease = ray.get(reply if asked == step else self._ask(step))
            last = lease.last or not lease.micro_batches
            # A lease held ahead is work withheld from others, so only the next step's first is asked for in advance.
            self.under_way = (step + 1, self._ask(step + 1)) if last else (-1, None)
            self.parcels = {first: self._parcel(first, refs) for first, _, refs in lease.parcels} or self.parcels
            self.waited += time.perf_counter() - began
            for micro_batch in lease.micro_batches:
                first = max(first for first in self.parcels if first <= micro_batch)
                began = time.perf_counter()
                yield micro_batch, self.parcels[first][micro_batch - first]
                took = time.perf_counter() - began
                self.pace = took if not self.pace else (1 - SMOOTHING) * self.pace + SMOOTHING * took

    def _ask(self, step: int) -> Any:
        return self.feeder.lease.remote(self.generation, self.name, step, self.rank, self.pace)

    def _parcel(self, first: int, refs: list[Any]) -> list[bytes]:
        if first in self.parcels:
            return self.parcels[first]
        opened, payloads = open_parcel(ray.get(refs[0]))
        assert opened == first, f"parcel {opened} came in place of {first}"
        return payloads

    def take_waited(self) -> float:
        waited, self.waited = self.waited, 0.0
        return waited

    def close(self) -> None:
        ray.get(self.feeder.close.remote(self.generation, self.name))


def validation_plan(plan: StreamPlan, coupled: bool) -> StreamPlan:
    """The same data's validation split, in larger micro-batches unless their size decides what the loss is (`coupled`)."""
    size = plan.micro_batch_size
    return replace(plan, validation=True, micro_batch_size=size if coupled else size * -(-EVALUATION_BATCH // size))
