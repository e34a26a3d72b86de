"""The feeder: one actor that drives the Ray Data stream and hands micro-batches to workers.

Its only state is where the run stands: it can be started again at any step, and does not know who took what before. A
*generation* numbers the worker groups; a call of a group that is gone is refused, so a late worker cannot take
micro-batches from the living. Workers *lease* micro-batches of a step until none is left, a share of what remains each
time (guided self-scheduling, Polychronopoulos and Kuck 1987): whoever is faster comes back sooner and computes more.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import pyarrow as pa
import ray

from foundray.data.stream import StreamPlan, configure_ray_data, open_parcel, parcels

BUFFERED_PARCELS = 8
STORE_BYTES = 2**28


class StaleGeneration(RuntimeError):
    """The caller's worker group has been replaced."""


@dataclass
class Lease:
    """Consecutive micro-batches of one step, each in a parcel."""

    micro_batches: list[int] = field(default_factory=list)
    """Positions in the stream; empty when the step has none left."""
    parcels: list[tuple[int, int, list[Any]]] = field(default_factory=list)
    """(first micro-batch, micro-batches, [reference]) of the parcels that hold them."""
    last: bool = True
    """The step has none left after these."""


class _Stream:
    """Parcels ahead of the workers, filled by a thread that runs the Ray Data pipeline."""

    def __init__(self, plan: StreamPlan, per_step: int, first_step: int, end: int, wake: Any):
        self.per_step, self.next = per_step, first_step * per_step
        self.end, self.wake = end, wake
        self.ready: deque[tuple[int, int, Any]] = deque()
        self.error: BaseException | None = None
        self.room = threading.Semaphore(BUFFERED_PARCELS)
        self.closed = False
        threading.Thread(target=self._fill, args=(plan, self.next), daemon=True).start()

    def _fill(self, plan: StreamPlan, first: int) -> None:
        try:
            for parcel in parcels(plan, first, self.end):
                self.room.acquire()
                if self.closed:
                    return
                self.ready.append(parcel)
                self.wake()
        except BaseException as error:  # handed to the worker that waits for data
            self.error = error
            self.wake()

    @property
    def available(self) -> int:
        """End of the micro-batches at hand."""
        return self.ready[-1][0] + self.ready[-1][1] if self.ready else 0

    def take(self, step: int, workers: int) -> Lease | None:
        """A share of what the step has left; empty when nothing is; None while data is awaited."""
        last = min((step + 1) * self.per_step, self.end)
        if self.next >= last:
            return Lease()
        if self.available <= self.next:
            return None
        count = min(-(-(last - self.next) // workers), self.available - self.next)
        chosen = range(self.next, self.next + count)
        held = [(first, n, [ref]) for first, n, ref in self.ready if first < chosen.stop and first + n > chosen.start]
        self.next = chosen.stop
        return Lease(list(chosen), held, chosen.stop == last)

    def forget(self) -> None:
        """Let go of parcels that are leased whole, so that a step may be longer than the buffer; leases hold them on."""
        while self.ready and self.ready[0][0] + self.ready[0][1] <= self.next:
            self.ready.popleft()
            self.room.release()

    def close(self) -> None:
        self.closed = True
        self.room.release()
        self.ready.clear()


class _Feeder:
    """The actor. Every method is a coroutine of one event loop, so none needs a lock."""

    def __init__(self) -> None:
        configure_ray_data(STORE_BYTES)
        self.generation, self.workers = 0, 1
        self.streams: dict[str, _Stream] = {}
        self.changed = asyncio.Condition()

    async def begin(self, workers: int) -> int:
        """A new worker group: forget the old one's leases, and number the new one."""
        for name in list(self.streams):
            self.streams.pop(name).close()
        # Time, not a count: a feeder that was itself restarted must not repeat a number.
        self.generation, self.workers = time.time_ns(), workers
        async with self.changed:
            self.changed.notify_all()
        return self.generation

    async def open(self, generation: int, name: str, plan: StreamPlan, per_step: int, first_step: int, end: int) -> None:
        """Start a stream of micro-batches [first_step * per_step, end); asked by every worker, done once."""
        self._check(generation)
        if name not in self.streams:
            loop = asyncio.get_running_loop()
            wake = lambda: asyncio.run_coroutine_threadsafe(self._wake(), loop)  # noqa: E731
            self.streams[name] = _Stream(plan, per_step, first_step, end, wake)

    async def lease(self, generation: int, name: str, step: int) -> Lease:
        """The caller's next micro-batches of the step, waiting for data if need be; empty when the step has none left."""
        async with self.changed:
            while True:
                self._check(generation)
                stream = self.streams[name]
                if stream.error:
                    raise stream.error
                if (lease := stream.take(step, self.workers)) is not None:
                    stream.forget()
                    return lease
                await self.changed.wait()

    async def close(self, generation: int, name: str) -> None:
        """Drop a stream; asked by every worker, done once."""
        self._check(generation)
        if name in self.streams:
            self.streams.pop(name).close()

    async def _wake(self) -> None:
        async with self.changed:
            self.changed.notify_all()

    def _check(self, generation: int) -> None:
        if generation != self.generation:
            raise StaleGeneration("this worker group has been replaced")


def start_feeder() -> Any:
    """A feeder of the calling process's lifetime, which Ray restarts if it dies."""
    return ray.remote(_Feeder).options(num_cpus=0, max_restarts=-1, max_concurrency=1000).remote()


class MicroBatchSource:
    """A worker's view of a stream: iterate over its micro-batches of a step, with the next lease always under way."""

    def __init__(self, feeder: Any, generation: int, name: str, plan: StreamPlan, per_step: int, first_step: int, end: int):
        self.feeder, self.generation, self.name, self.size = feeder, generation, name, plan.micro_batch_size
        ray.get(feeder.open.remote(generation, name, plan, per_step, first_step, end))
        self.parcels: dict[int, pa.Table] = {}
        self.waited = 0.0
        """Seconds spent waiting for data since last asked."""
        self.under_way = (first_step, self._ask(first_step))

    def step(self, step: int) -> Iterator[tuple[int, pa.Table]]:
        """(position in the stream, samples) of the micro-batches of the step that fall to this worker."""
        last = False
        while not last:
            began = time.perf_counter()
            asked, reply = self.under_way
            lease: Lease = ray.get(reply if asked == step else self._ask(step))
            last = lease.last
            following = step + 1 if last else step
            self.under_way = (following, self._ask(following))
            self.parcels = {first: self._parcel(first, refs) for first, _, refs in lease.parcels} or self.parcels
            self.waited += time.perf_counter() - began
            for micro_batch in lease.micro_batches:
                first = max(first for first in self.parcels if first <= micro_batch)
                yield micro_batch, self.parcels[first].slice((micro_batch - first) * self.size, self.size)

    def _ask(self, step: int) -> Any:
        return self.feeder.lease.remote(self.generation, self.name, step)

    def _parcel(self, first: int, refs: list[Any]) -> pa.Table:
        if first in self.parcels:
            return self.parcels[first]
        opened, samples = open_parcel(ray.get(refs[0]))
        assert opened == first, f"parcel {opened} came in place of {first}"
        return samples

    def take_waited(self) -> float:
        waited, self.waited = self.waited, 0.0
        return waited

    def close(self) -> None:
        ray.get(self.feeder.close.remote(self.generation, self.name))


def validation_plan(plan: StreamPlan, micro_batch_size: int) -> StreamPlan:
    """The same data's validation split."""
    return replace(plan, validation=True, micro_batch_size=micro_batch_size)
