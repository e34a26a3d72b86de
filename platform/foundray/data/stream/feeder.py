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
from contextlib import suppress
from typing import Any

import ray
from ray.exceptions import RayError

from foundray.cluster.connect import beside_caller
from foundray.cluster.local_ray import is_alone
from foundray.data.stream.leases import TRAINING, FeederHandle, Lease
from foundray.data.stream.plan import Parcel, StreamPlan
from foundray.data.stream.stream import RayData, Stream

AVAILABLE_SECONDS = 0.2
"""Longest wait of a new group to see which parcels still exist: some may have been lost with a node."""


CALLS_AT_ONCE = 8192
"""Calls that may wait in the feeder: more than one per worker of the largest group, or those that wait would block the rest."""


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
        self.kept: tuple[StreamPlan, asyncio.Task[list[Parcel]]] | None = None
        """Parcels of the previous group's training stream, once it is known which of them still exist."""
        self.leases = 0

    async def prefetch(self, plan: StreamPlan, per_step: int, first_step: int, end: int) -> None:
        """Start the training stream that the first group will most likely `open`, before its workers are ready."""
        self.prefetched = self._stream(plan, per_step, first_step, end, [])

    async def begin(self, workers: int) -> int:
        """Replace the worker group, and return the new generation. The old group's leases are void."""
        # Use the time, not a count: a restarted feeder must not repeat a number.
        self.generation, self.workers = time.time_ns(), workers
        ended, self.streams = self.streams, {}
        kept = {name: (stream.plan, stream.close(_replaced())) for name, stream in ended.items()}
        if TRAINING in kept:
            plan, parcels = kept[TRAINING]
            self.kept = plan, asyncio.create_task(_available(parcels))  # while the group meets
        return self.generation

    async def open(self, generation: int, name: str, plan: StreamPlan, per_step: int, first_step: int, end: int) -> None:
        """Start a stream of micro-batches [first_step * per_step, end). Every worker calls it; the first call counts."""
        kept = await self.kept[1] if self.kept and name == TRAINING else []
        self._check(generation)
        if name in self.streams:
            return
        self.streams[name] = stream = self._opened(name, plan, per_step, first_step, end, kept)
        stream.division.begin(self.workers)

    def _opened(self, name: str, plan: StreamPlan, per_step: int, first_step: int, end: int, kept: list[Parcel]) -> Stream:
        """The stream that was prefetched, if it is this one, or a new one with the parcels left from the previous group."""
        if name == TRAINING and self.prefetched:
            prefetched, self.prefetched = self.prefetched, None
            if prefetched.request == (plan, per_step, first_step, end):
                return prefetched
            prefetched.close()
        buffered = contiguous(kept, first_step * per_step, end) if self.kept and self.kept[0] == plan else []
        return self._stream(plan, per_step, first_step, end, buffered)

    def _stream(self, plan: StreamPlan, per_step: int, first_step: int, end: int, buffered: list[Parcel]) -> Stream:
        loop = asyncio.get_running_loop()

        def post(change: Callable[[], None]) -> None:
            with suppress(RuntimeError):  # the loop has ended, and with it the actor
                loop.call_soon_threadsafe(change)

        stream = Stream(plan, per_step, first_step, end, post, self.ray_data, buffered)
        stream.start()
        return stream

    async def lease(self, generation: int, name: str, step: int, rank: int, seconds: float) -> Lease:
        """Lease the caller's next micro-batches of the step, and wait for data if necessary; empty if there are no more for it.

        `seconds` is the caller's measured time per micro-batch; 0 if unknown.
        """
        self._check(generation)
        stream = self.streams[name]
        reply = stream.lease(step, rank, seconds)
        lease = reply if isinstance(reply, Lease) else await reply
        stream.computing.set()
        self.leases += 1
        return lease

    async def stats(self) -> dict[str, int]:
        """Count parcels ready, leases granted in all, and leases waiting."""
        stream = self.streams.get(TRAINING) or self.prefetched
        waiting = sum(len(one.requests.replies) for one in self.streams.values())
        return {"parcels_ready": len(stream.buffer.parcels) if stream else 0, "leases": self.leases, "leases_waiting": waiting}

    async def close(self, generation: int, name: str) -> None:
        """Close a stream, if it is open. Workers that still wait get nothing more."""
        self._check(generation)
        if name in self.streams:
            self.streams.pop(name).close()

    def _check(self, generation: int) -> None:
        if generation != self.generation:
            raise _replaced()


def _replaced() -> StaleGeneration:
    return StaleGeneration("this worker group has been replaced")


async def _available(parcels: list[Parcel]) -> list[Parcel]:
    """Parcels that are available at once. A new pipeline reads those again that were lost with a node."""
    if not parcels:
        return []
    refs = [ref for _, _, ref in parcels]
    there = set[Any]()
    with suppress(RayError):  # otherwise all are read again
        there |= set((await asyncio.to_thread(ray.wait, refs, num_returns=len(refs), timeout=AVAILABLE_SECONDS))[0])
    return [parcel for parcel in parcels if parcel[2] in there]


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

    It runs on the caller's node, so that the loss of another node does not end it.
    """
    options = {"num_cpus": 0, "max_restarts": -1, "max_concurrency": CALLS_AT_ONCE}
    actor = ray.remote(_Feeder).options(scheduling_strategy=beside_caller(), **options)
    feeder: FeederHandle = actor.remote(is_alone())
    return feeder
