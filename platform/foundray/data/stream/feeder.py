"""The feeder: one actor that drives the Ray Data stream and hands micro-batches to workers.

Its only state is the run's position in the stream: it can restart at any step, and keeps no history of leases. A *generation*
numbers the worker groups. A call from a replaced group is refused, so a late worker cannot take micro-batches from the
current group. A new group starts with the parcels that are left from the previous group, while a new pipeline reads on from
there.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from statistics import mean

import ray

from foundray.cluster.connect import beside_caller
from foundray.cluster.local_ray import is_alone
from foundray.data.stream.leases import TRAINING, FeederHandle, Lease
from foundray.data.stream.plan import Parcel, StreamPlan
from foundray.data.stream.stream import RayData, Stream

AVAILABLE_SECONDS = 0.2
"""Longest wait of a new group to see which parcels still exist: some may have been lost with a node."""


class StaleGeneration(RuntimeError):
    """The caller's worker group has been replaced."""


class _Feeder:
    """The actor. All methods are coroutines of one event loop, and threads only post to it, so nothing needs a lock."""

    def __init__(self, alone: bool = False) -> None:
        """`alone`: no other command uses this Ray."""
        self.ray_data = RayData(alone)
        self.generation = 0
        self.workers = 0
        """Workers of the generation."""
        self.streams: dict[str, Stream] = {}
        self.prefetched: Stream | None = None
        """The training stream, started before any worker opens it."""
        self.kept: tuple[StreamPlan, list[Parcel]] | None = None
        """Parcels of the previous group's training stream that still exist."""
        self.leases = self.waiting = 0
        self.changed = asyncio.Condition()

    async def prefetch(self, plan: StreamPlan, per_step: int, first_step: int, end: int) -> None:
        """Start the training stream that the first group will most likely `open`, before its workers are ready."""
        self.prefetched = self._stream(plan, per_step, first_step, end, [])

    async def begin(self, workers: int) -> int:
        """Replace the worker group, and return the new generation. The old group's leases are void."""
        # Use the time, not a count: a restarted feeder must not repeat a number.
        self.generation, self.workers = time.time_ns(), workers
        ended, self.streams = self.streams, {}
        kept = {name: (stream.plan, stream.close()) for name, stream in ended.items()}
        if TRAINING in kept:
            plan, parcels = kept[TRAINING]
            self.kept = plan, await _available(parcels)
        async with self.changed:
            self.changed.notify_all()
        return self.generation

    async def open(self, generation: int, name: str, plan: StreamPlan, per_step: int, first_step: int, end: int) -> None:
        """Start a stream of micro-batches [first_step * per_step, end). Every worker calls it; the first call counts."""
        self._check(generation)
        if name in self.streams:
            return
        if name == TRAINING and self.prefetched:
            prefetched, self.prefetched = self.prefetched, None
            if prefetched.request == (plan, per_step, first_step, end):
                self.streams[name] = prefetched
                return
            prefetched.close()
        kept_plan, kept = self.kept if self.kept and name == TRAINING else (None, [])
        buffered = contiguous(kept, first_step * per_step, end) if kept_plan == plan else []
        self.streams[name] = self._stream(plan, per_step, first_step, end, buffered)

    def _stream(self, plan: StreamPlan, per_step: int, first_step: int, end: int, buffered: list[Parcel]) -> Stream:
        loop = asyncio.get_running_loop()

        def post(change: Callable[[], None]) -> None:
            asyncio.run_coroutine_threadsafe(self._apply(change), loop)

        stream = Stream(plan, per_step, first_step, end, post, self.ray_data, buffered)
        stream.start()
        return stream

    async def lease(self, generation: int, name: str, step: int, rank: int, seconds: float) -> Lease:
        """Lease the caller's next micro-batches of the step, and wait for data if necessary; empty if there are no more for it.

        `seconds` is the caller's measured time per micro-batch; 0 if unknown.
        """
        async with self.changed:
            while True:
                self._check(generation)
                stream = self.streams[name]
                if stream.error:
                    raise stream.error
                # Workers without a measured pace count as average.
                if seconds:
                    stream.pace[rank] = seconds
                unknown = mean(stream.pace.values()) if stream.pace else 1.0
                pace = [stream.pace.get(rank, unknown) for rank in range(self.workers)]
                if (lease := stream.take(step, rank, pace)) is not None:
                    stream.release()
                    stream.computing.set()
                    self.leases += 1
                    self.changed.notify_all()  # workers that are a step ahead may continue
                    return lease
                self.waiting += 1
                try:
                    await self.changed.wait()
                finally:
                    self.waiting -= 1

    async def stats(self) -> dict[str, int]:
        """Count parcels ready, leases granted in all, and leases waiting."""
        stream = self.streams.get(TRAINING) or self.prefetched
        return {"parcels_ready": len(stream.ready) if stream else 0, "leases": self.leases, "leases_waiting": self.waiting}

    async def close(self, generation: int, name: str) -> None:
        """Close a stream. Every worker calls it; the first call counts."""
        self._check(generation)
        if name in self.streams:
            self.streams.pop(name).close()

    async def _apply(self, change: Callable[[], None]) -> None:
        """Apply a change that another thread posted, and wake all that wait for data."""
        change()  # before anything is awaited, so that changes keep the order in which they were posted
        async with self.changed:
            self.changed.notify_all()

    def _check(self, generation: int) -> None:
        if generation != self.generation:
            raise StaleGeneration("this worker group has been replaced")


async def _available(parcels: list[Parcel]) -> list[Parcel]:
    """Parcels that are available at once. A new pipeline reads those again that were lost with a node."""
    if not parcels:
        return []
    refs = [ref for _, _, ref in parcels]
    available, _ = await asyncio.to_thread(ray.wait, refs, num_returns=len(refs), timeout=AVAILABLE_SECONDS)
    return [parcel for parcel in parcels if parcel[2] in available]


def contiguous(parcels: list[Parcel], position: int, end: int) -> list[Parcel]:
    """Longest run of parcels without a gap that covers `position`; stops before a parcel that reaches past `end`."""
    found: list[Parcel] = []
    for parcel in parcels:
        first, count, _ = parcel
        run_end = found[-1][0] + found[-1][1] if found else position
        if first + count > position and first <= run_end and first + count <= end and (not found or first == run_end):
            found.append(parcel)
    return found


def start_feeder() -> FeederHandle:
    """Start a feeder that lives as long as the calling process, and that Ray restarts if it dies.

    It runs on the caller's node if possible, so that the loss of a worker node does not end it.
    """
    options = {"num_cpus": 0, "max_restarts": -1, "max_concurrency": 1000}
    actor = ray.remote(_Feeder).options(scheduling_strategy=beside_caller(soft=True), **options)
    feeder: FeederHandle = actor.remote(is_alone())
    return feeder
