"""Copies a worker's state shards to the worker that keeps its replica, while the next step runs."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import ray
from torch import Tensor

from foundray.training.elastic.messages import WorkerHandle
from foundray.training.elastic.restore import as_arrays
from foundray.training.protocol.states import StateShard

if TYPE_CHECKING:
    from foundray.training.elastic.worker import Worker

POLL_SECONDS = 0.05
MIN_STEPS = 2
"""Minimum steps between two replications if the spec leaves the interval open."""


class Replication:
    """A worker's replications, one at a time."""

    def __init__(self, worker: Worker):
        self.worker = worker
        self.began = 0.0
        """Time at which the last replication began."""
        self.begin(None)

    def begin(self, holder: WorkerHandle | None) -> None:
        """Start in a group; `holder` keeps this worker's replica, unless it is alone."""
        self.holder = holder
        self.under_way: list[Any] = []
        self.started: int | None = None
        """Step of the last state whose replication has begun in this group."""
        self.step: int | None = None
        """Step of the last state that this group has replicated."""

    def start(self, shard: StateShard, tensors: dict[str, Tensor]) -> None:
        """Keep a shard in this worker's memory, and begin to copy it to the holder; the previous one must have arrived."""
        self.began, self.started = time.monotonic(), shard.step
        self.worker.replicas.keep(shard, tensors, own=True)
        if self.holder is not None:
            self.under_way = [self.holder.hold.remote(shard, as_arrays(tensors))]

    def finish(self, check: Callable[[], None]) -> None:
        """Wait until the copy has arrived. `check` raises an error if the group is broken."""
        while self.under_way:
            done, self.under_way = ray.wait(self.under_way, timeout=POLL_SECONDS)
            ray.get(done)
            if self.under_way:  # Ray takes seconds to report a lost holder; the group's connections fail at once
                check()
            elif own := self.worker.replicas.own:
                self.step = own.step

    def pays(self, step: int, seconds: float) -> bool:
        """Tell whether a replication after `step` pays, if the last one began at least `seconds` ago."""
        return step - (self.step or 0) >= MIN_STEPS and time.monotonic() - self.began >= seconds
