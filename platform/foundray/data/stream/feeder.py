"""The feeder: one actor that drives the Ray Data stream and hands micro-batches to workers.

Its only state is the run's position in the stream: it can restart at any step, and keeps no history of leases. A *generation*
numbers the worker groups. A call from a replaced group is refused, so a late worker cannot take micro-batches from the
current group. Workers *lease* micro-batches of a step: first most of their share by measured speed, then smaller parts of
what is left (factoring, Hummel, Schonberg and Flynn 1992), so that a worker that is faster than estimated takes micro-batches
from slower ones. Near the end a slow worker gets no more: the others finish sooner. Several short steps are assigned at once,
by speed: within half a second a change of speed costs less than the calls. A new group starts with the parcels that are
left from the previous group, while a new pipeline reads on from there.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections import deque
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from statistics import mean
from typing import Any

import ray

from foundray.cluster.connect import beside_caller
from foundray.cluster.local_ray import is_alone
from foundray.data.alone import without_helpers
from foundray.data.stream.leases import TRAINING, Lease
from foundray.data.stream.plan import Parcel, StreamPlan
from foundray.data.stream.shares import duration, others_finish_first, positions_by_worker, shares

BUFFERED_PARCELS = 8
KEPT_PARCELS = 32
"""Most leased parcels kept for a group that has to repeat their steps."""
AVAILABLE_SECONDS = 0.2
"""Longest wait of a new group to see which parcels still exist: some may have been lost with a node."""
STORE_BYTES = 2**28
"""Object store memory that Ray Data may use."""
FIRST, FURTHER = 0.75, 0.5
"""Fractions that a worker leases at once: first of its share of the step, then of its share of what is left."""
AHEAD_SECONDS = 0.5
"""Steps that take at most this long together are assigned at once: a worker that slows down delays the others by this long."""


Post = Callable[[Callable[[], None]], None]
"""Runs a function in the feeder's event loop."""


class StaleGeneration(RuntimeError):
    """The caller's worker group has been replaced."""


class _Stream:
    """Parcels read ahead of the workers, by a thread that runs the Ray Data pipeline.

    All state belongs to the feeder's event loop. The thread changes none of it: it posts each parcel to the loop.
    """

    def __init__(
        self,
        plan: StreamPlan,
        per_step: int,
        first_step: int,
        end: int,
        post: Post,
        ray_data: RayData,
        buffered: list[Parcel],
    ):
        """`buffered` are parcels from the first step on."""
        self.request = plan, per_step, first_step, end
        self.plan, self.per_step, self.next = plan, per_step, first_step * per_step
        self.end, self.post, self.ray_data = end, post, ray_data
        self.ready: deque[Parcel] = deque(buffered)
        """Parcels that are not leased whole."""
        self.leased: deque[Parcel] = deque(maxlen=KEPT_PARCELS)
        """Parcels that are leased whole."""
        self.pipeline_first = self.available or self.next
        """First micro-batch from the pipeline; only parcels from here on take room."""
        self.error: BaseException | None = None
        self.room = threading.Semaphore(BUFFERED_PARCELS)
        self.closed = False
        self.computing = threading.Event()
        """Set after the first lease, or when the stream is closed."""
        self.last_leased: dict[int, int] = {}
        """By rank, the last step with a lease."""
        self.last_refused: dict[int, int] = {}
        """By rank, the last step in which more was refused. One worker of a step is never refused, so nothing is left over."""
        self.assigned: dict[int, Lease] = {}
        """By rank, a lease that is assigned and not collected yet."""
        self.pace: dict[int, float] = {}
        """By rank, seconds per micro-batch of this stream, once measured."""
        threading.Thread(target=self._fill, daemon=True).start()

    def _fill(self) -> None:
        from foundray.data.stream.parcels import parcels  # imported here, so that tests can replace it

        try:
            for parcel in parcels(self.plan, self.pipeline_first, self.end, self._start_ray_data):
                self.room.acquire()
                if self.closed:
                    return
                self.post(partial(self._append, parcel))
        except BaseException as error:  # raised in the worker that waits for data
            self.post(partial(self._fail, error))

    def _start_ray_data(self) -> bool:
        """Start Ray Data after the first lease (earlier it would slow the workers' start); False if the stream was closed."""
        if not self.ray_data.started:
            self.computing.wait()
        if not self.closed:
            self.ray_data.start()
        return not self.closed

    def _append(self, parcel: Parcel) -> None:
        if not self.closed:  # a parcel may arrive after the stream was closed
            self.ready.append(parcel)

    def _fail(self, error: BaseException) -> None:
        self.error = error

    @property
    def available(self) -> int:
        """End of the micro-batches that are ready."""
        return self.ready[-1][0] + self.ready[-1][1] if self.ready else 0

    def take(self, step: int, rank: int, pace: list[float]) -> Lease | None:
        """Lease a share of what is left of the step.

        Empty if nothing is left or the others finish sooner without this worker; None if it has to wait. `pace` is each
        worker's seconds per micro-batch.
        """
        if rank in self.assigned:
            return self.assigned.pop(rank)
        # Settle the cases without a choice: an earlier step has micro-batches left for others, or this one has none.
        last = min((step + 1) * self.per_step, self.end)
        left = last - self.next
        if self.next < step * self.per_step:
            return None
        if left <= 0:
            return Lease(step + 1)
        # At the start of a step, assign several short steps at once if possible.
        if self.next == step * self.per_step and self._assign(step, pace):
            return self.assigned.pop(rank)
        # Refuse a slow worker near the end, unless all others were refused.
        if others_finish_first(left, rank, pace) and any(
            self.last_refused.get(other) != step for other in range(len(pace)) if other != rank
        ):
            self.last_refused[rank] = step
            return Lease(step + 1)
        if self.available <= self.next:
            return None
        # Lease part of the worker's share: a large part first, then smaller ones, so that errors in `pace` even out.
        share = (1 / pace[rank]) / sum(1 / seconds for seconds in pace)
        first = self.last_leased.get(rank) != step
        self.last_leased[rank] = step
        part = FIRST * share * self.per_step if first else FURTHER * share * left
        count = left if len(pace) == 1 else max(1, int(part))
        count = min(count, left, self.available - self.next)
        chosen = list(range(self.next, self.next + count))
        self.next += count
        return Lease(step + 1 if self.next == last else step, chosen, self._parcels_of(chosen))

    def _assign(self, step: int, pace: list[float]) -> bool:
        """Assign the steps from this one on to all workers, if two or more are short enough and their data is ready."""
        ready_steps = (min(self.available, self.end) - self.next) // self.per_step
        if ready_steps < 2:
            return False
        counts = shares(self.per_step, pace)
        steps = min(ready_steps, int(AHEAD_SECONDS / duration(counts, pace)))
        if steps < 2:
            return False
        for rank, chosen in enumerate(positions_by_worker(counts, self.per_step, self.next, steps)):
            self.assigned[rank] = Lease(step + steps, chosen, self._parcels_of(chosen))
        self.next += steps * self.per_step
        return True

    def _parcels_of(self, chosen: list[int]) -> list[tuple[int, int, list[Any]]]:
        """Parcels that hold the chosen micro-batches."""
        return [(first, n, [ref]) for first, n, ref in self.ready if any(first <= one < first + n for one in chosen)]

    def release(self) -> None:
        """Free the room of parcels that are leased whole, so that a step may exceed the buffer; leases keep them alive."""
        while self.ready and self.ready[0][0] + self.ready[0][1] <= self.next:
            self.leased.append(self.ready.popleft())
            if self.leased[-1][0] >= self.pipeline_first:
                self.room.release()

    def close(self) -> list[Parcel]:
        """End the pipeline, and return the parcels that are kept."""
        self.closed = True
        self.computing.set()
        self.room.release()
        kept = [*self.leased, *self.ready]
        self.ready.clear()
        return kept


class RayData:
    """Ray Data in the feeder's process, started when it is needed."""

    def __init__(self, alone: bool):
        self.alone, self.started = alone, False
        self.helpers = ExitStack()
        self.starting = threading.Lock()

    def start(self) -> None:
        """Import and configure Ray Data, once; takes seconds."""
        with self.starting:
            if self.started:
                return
            from foundray.data.stream.datasets import configure_ray_data

            configure_ray_data(STORE_BYTES)
            if self.alone:
                self.helpers.enter_context(without_helpers())
            self.started = True


class _Feeder:
    """The actor. All methods are coroutines of one event loop, and threads only post to it, so nothing needs a lock."""

    def __init__(self, alone: bool = False) -> None:
        """`alone`: no other command uses this Ray."""
        self.ray_data = RayData(alone)
        self.generation = 0
        self.workers = 0
        """Workers of the generation."""
        self.streams: dict[str, _Stream] = {}
        self.prefetched: _Stream | None = None
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

    def _stream(self, plan: StreamPlan, per_step: int, first_step: int, end: int, buffered: list[Parcel]) -> _Stream:
        loop = asyncio.get_running_loop()

        def post(change: Callable[[], None]) -> None:
            asyncio.run_coroutine_threadsafe(self._apply(change), loop)

        return _Stream(plan, per_step, first_step, end, post, self.ray_data, buffered)

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


def start_feeder() -> Any:
    """Start a feeder that lives as long as the calling process, and that Ray restarts if it dies.

    It runs on the caller's node if possible, so that the loss of a worker node does not end it.
    """
    options = {"num_cpus": 0, "max_restarts": -1, "max_concurrency": 1000}
    return ray.remote(_Feeder).options(scheduling_strategy=beside_caller(soft=True), **options).remote(is_alone())
