"""The feeder: one actor that drives the Ray Data stream and hands micro-batches to workers.

Its only state is where the run stands: it can be started again at any step, and does not know who took what before. A
*generation* numbers the worker groups; a call of a group that is gone is refused, so a late worker cannot take
micro-batches from the living. Workers *lease* micro-batches of a step: first most of the share that their measured speed
makes theirs, then smaller parts of what is left (factoring, Hummel, Schonberg and Flynn 1992), so that whoever is faster
than thought takes what a slower one would have had. Near the end a slow worker gets no more: the others are done sooner.
Short steps are dealt out several at once, by speed: within half a second a change of speed costs less than calls do. A
new group starts with the parcels that are at hand from the one before, while a new pipeline reads on from there.
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
from foundray.data.stream.shares import better_left, dealt, duration, shares

BUFFERED_PARCELS = 8
KEPT_PARCELS = 32
"""Parcels that were leased, at most, which are kept for a group that has to repeat their steps."""
AT_HAND_SECONDS = 0.2
"""Longest that a new group waits to see which parcels are still there: some may have been lost with a node."""
STORE_BYTES = 2**28
FIRST, FURTHER = 0.75, 0.5
"""Parts of its share of a step, and later of what is left, that a worker leases at once."""
AHEAD_SECONDS = 0.5
"""Steps that take no longer together are dealt out at once: for so long a worker that slows down holds up the others."""


HandOver = Callable[[Callable[[], None]], None]


class StaleGeneration(RuntimeError):
    """The caller's worker group has been replaced."""


class _Stream:
    """Parcels ahead of the workers, read by a thread that runs the Ray Data pipeline.

    Everything here belongs to the feeder's event loop. The thread changes nothing: it hands each parcel over to the loop.
    """

    def __init__(
        self,
        plan: StreamPlan,
        per_step: int,
        first_step: int,
        end: int,
        hand_over: HandOver,
        ray_data: RayData,
        at_hand: list[Parcel],
    ):
        """`hand_over` runs a function in the event loop. `at_hand` are parcels from the first step on."""
        self.asked = plan, per_step, first_step, end
        self.plan, self.per_step, self.next = plan, per_step, first_step * per_step
        self.end, self.hand_over, self.ray_data = end, hand_over, ray_data
        self.ready: deque[Parcel] = deque(at_hand)
        self.behind: deque[Parcel] = deque(maxlen=KEPT_PARCELS)
        """Those that are leased whole."""
        self.unread = self.available or self.next
        """From here on they come out of the pipeline, which waits for room."""
        self.error: BaseException | None = None
        self.room = threading.Semaphore(BUFFERED_PARCELS)
        self.closed = False
        self.computing = threading.Event()
        """Set once a worker has leased something, or none will."""
        self.began: dict[int, int] = {}
        """The last step of which each worker has leased something."""
        self.done: dict[int, int] = {}
        """The last step of which each worker was refused more: not all are, so that nothing is left over."""
        self.dealt: dict[int, Lease] = {}
        """What was dealt out to each worker, and not asked for yet."""
        self.pace: dict[int, float] = {}
        """Seconds a micro-batch of this stream takes each worker; none of one that does not know yet."""
        threading.Thread(target=self._fill, daemon=True).start()

    def _fill(self) -> None:
        from foundray.data.stream.parcels import parcels  # not at the top, as in the feeder itself

        try:
            for parcel in parcels(self.plan, self.unread, self.end, self._begin_ray_data):
                self.room.acquire()
                if self.closed:
                    return
                self.hand_over(partial(self._arrive, parcel))
        except BaseException as error:  # raised in the worker that waits for data
            self.hand_over(partial(self._fail, error))

    def _begin_ray_data(self) -> bool:
        """In the thread: Ray Data's start would slow that of workers. Gives whether the stream is still wanted."""
        if not self.ray_data.is_there:
            self.computing.wait()
        if not self.closed:
            self.ray_data.start()
        return not self.closed

    def _arrive(self, parcel: Parcel) -> None:
        if not self.closed:  # a parcel may have been on its way while the stream was closed
            self.ready.append(parcel)

    def _fail(self, error: BaseException) -> None:
        self.error = error

    @property
    def available(self) -> int:
        """End of the micro-batches at hand."""
        return self.ready[-1][0] + self.ready[-1][1] if self.ready else 0

    def take(self, step: int, rank: int, pace: list[float]) -> Lease | None:
        """A share of what the step has left; empty when that is nothing or better done by others; None while data is awaited.

        `pace` holds every worker's seconds a micro-batch.
        """
        if rank in self.dealt:
            return self.dealt.pop(rank)
        last = min((step + 1) * self.per_step, self.end)
        left = last - self.next
        if self.next < step * self.per_step:
            return None  # the step before has some left, for others
        if left <= 0:
            return Lease(step + 1)
        if self.next == step * self.per_step and self._deal(step, pace):
            return self.dealt.pop(rank)
        if better_left(left, rank, pace) and any(self.done.get(r) != step for r in range(len(pace)) if r != rank):
            self.done[rank] = step
            return Lease(step + 1)
        if self.available <= self.next:
            return None
        share = (1 / pace[rank]) / sum(1 / seconds for seconds in pace)
        first = self.began.get(rank) != step
        self.began[rank] = step
        part = FIRST * share * self.per_step if first else FURTHER * share * left
        count = left if len(pace) == 1 else max(1, int(part))
        count = min(count, left, self.available - self.next)
        chosen = list(range(self.next, self.next + count))
        self.next += count
        return Lease(step + 1 if self.next == last else step, chosen, self._holding(chosen))

    def _deal(self, step: int, pace: list[float]) -> bool:
        """Deal out the steps from this one on, if several are short enough for that and their data at hand."""
        at_hand = (min(self.available, self.end) - self.next) // self.per_step
        if at_hand < 2:
            return False
        counts = shares(self.per_step, pace)
        steps = min(at_hand, int(AHEAD_SECONDS / duration(counts, pace)))
        if steps < 2:
            return False
        for rank, chosen in enumerate(dealt(counts, self.per_step, self.next, steps)):
            self.dealt[rank] = Lease(step + steps, chosen, self._holding(chosen))
        self.next += steps * self.per_step
        return True

    def _holding(self, chosen: list[int]) -> list[tuple[int, int, list[Any]]]:
        """The parcels that hold the chosen micro-batches."""
        return [(first, n, [ref]) for first, n, ref in self.ready if any(first <= one < first + n for one in chosen)]

    def forget(self) -> None:
        """Let go of parcels that are leased whole, so that a step may be longer than the buffer; leases hold them on."""
        while self.ready and self.ready[0][0] + self.ready[0][1] <= self.next:
            self.behind.append(self.ready.popleft())
            if self.behind[-1][0] >= self.unread:
                self.room.release()

    def close(self) -> list[Parcel]:
        """End the pipeline; gives the parcels that are here."""
        self.closed = True
        self.computing.set()
        self.room.release()
        left = [*self.behind, *self.ready]
        self.ready.clear()
        return left


class RayData:
    """Ray Data in the feeder's process, from when it is needed."""

    def __init__(self, alone: bool):
        self.alone, self.is_there = alone, False
        self.helpers = ExitStack()
        self.starting = threading.Lock()

    def start(self) -> None:
        """Import it and set what the streams rely on, once; it takes seconds."""
        with self.starting:
            if self.is_there:
                return
            from foundray.data.stream.datasets import configure_ray_data

            configure_ray_data(STORE_BYTES)
            if self.alone:
                self.helpers.enter_context(without_helpers())
            self.is_there = True


class _Feeder:
    """The actor. Every method is a coroutine of one event loop, and threads only hand over to it, so nothing needs a lock."""

    def __init__(self, alone: bool = False) -> None:
        """`alone` says that no other command uses this Ray."""
        self.ray_data = RayData(alone)
        self.generation = 0
        self.workers = 0
        """Of the generation."""
        self.streams: dict[str, _Stream] = {}
        self.prefetched: _Stream | None = None
        """The training stream, begun before there is anybody to ask for it."""
        self.kept: tuple[StreamPlan, list[Parcel]] | None = None
        """Parcels that the training stream of a group before left behind, as far as they could be had."""
        self.leases = self.waiting = 0
        self.changed = asyncio.Condition()

    async def prefetch(self, plan: StreamPlan, per_step: int, first_step: int, end: int) -> None:
        """Start the training stream that the first group will most likely `open`, while its workers are yet to come."""
        self.prefetched = self._stream(plan, per_step, first_step, end, [])

    async def begin(self, workers: int) -> int:
        """A new worker group: forget the old one's leases, and number the new one."""
        # Time, not a count: a feeder that was itself restarted must not repeat a number.
        self.generation, self.workers = time.time_ns(), workers
        ended, self.streams = self.streams, {}
        left = {name: (stream.plan, stream.close()) for name, stream in ended.items()}
        if TRAINING in left:
            plan, parcels = left[TRAINING]
            self.kept = plan, await _at_hand(parcels)
        async with self.changed:
            self.changed.notify_all()
        return self.generation

    async def open(self, generation: int, name: str, plan: StreamPlan, per_step: int, first_step: int, end: int) -> None:
        """Start a stream of micro-batches [first_step * per_step, end); asked by every worker, done once."""
        self._check(generation)
        if name in self.streams:
            return
        if name == TRAINING and self.prefetched:
            prefetched, self.prefetched = self.prefetched, None
            if prefetched.asked == (plan, per_step, first_step, end):
                self.streams[name] = prefetched
                return
            prefetched.close()
        of, kept = self.kept if self.kept and name == TRAINING else (None, [])
        at_hand = onward(kept, first_step * per_step, end) if of == plan else []
        self.streams[name] = self._stream(plan, per_step, first_step, end, at_hand)

    def _stream(self, plan: StreamPlan, per_step: int, first_step: int, end: int, at_hand: list[Parcel]) -> _Stream:
        loop = asyncio.get_running_loop()

        def hand_over(change: Callable[[], None]) -> None:
            asyncio.run_coroutine_threadsafe(self._changed(change), loop)

        return _Stream(plan, per_step, first_step, end, hand_over, self.ray_data, at_hand)

    async def lease(self, generation: int, name: str, step: int, rank: int, seconds: float) -> Lease:
        """The caller's next micro-batches of the step, waiting for data if need be; empty when there are no more for it.

        `seconds` is what a micro-batch takes the caller; 0 if it does not know yet.
        """
        async with self.changed:
            while True:
                self._check(generation)
                stream = self.streams[name]
                if stream.error:
                    raise stream.error
                if seconds:
                    stream.pace[rank] = seconds
                unknown = mean(stream.pace.values()) if stream.pace else 1.0
                pace = [stream.pace.get(rank, unknown) for rank in range(self.workers)]
                if (lease := stream.take(step, rank, pace)) is not None:
                    stream.forget()
                    stream.computing.set()
                    self.leases += 1
                    self.changed.notify_all()  # whoever is a step ahead may go on
                    return lease
                self.waiting += 1
                try:
                    await self.changed.wait()
                finally:
                    self.waiting -= 1

    async def standing(self) -> dict[str, int]:
        """How far the data are ahead of the workers: parcels, leases given in all, and leases asked for and not given yet."""
        stream = self.streams.get(TRAINING) or self.prefetched
        return {"parcels_ready": len(stream.ready) if stream else 0, "leases": self.leases, "leases_waiting": self.waiting}

    async def close(self, generation: int, name: str) -> None:
        """Drop a stream; asked by every worker, done once."""
        self._check(generation)
        if name in self.streams:
            self.streams.pop(name).close()

    async def _changed(self, change: Callable[[], None]) -> None:
        """Make a change that another thread asked for, and wake whoever waits for data."""
        change()  # before anything is awaited: changes are made in the order in which they were asked for
        async with self.changed:
            self.changed.notify_all()

    def _check(self, generation: int) -> None:
        if generation != self.generation:
            raise StaleGeneration("this worker group has been replaced")


async def _at_hand(parcels: list[Parcel]) -> list[Parcel]:
    """Those that can be had at once. What was lost with a node would have to be read again, and is by a new pipeline."""
    if not parcels:
        return []
    refs = [ref for _, _, ref in parcels]
    there, _ = await asyncio.to_thread(ray.wait, refs, num_returns=len(refs), timeout=AT_HAND_SECONDS)
    return [parcel for parcel in parcels if parcel[2] in there]


def onward(parcels: list[Parcel], position: int, end: int) -> list[Parcel]:
    """Of some parcels in order, the gapless ones from a position on; none where the stream would end inside one."""
    found: list[Parcel] = []
    for parcel in parcels:
        first, count, _ = parcel
        reached = found[-1][0] + found[-1][1] if found else position
        if first + count > position and first <= reached and first + count <= end and (not found or first == reached):
            found.append(parcel)
    return found


def start_feeder() -> Any:
    """A feeder of the calling process's lifetime, which Ray restarts if it dies.

    It runs beside the caller where that is possible, so that a node which comes and goes does not take it along.
    """
    options = {"num_cpus": 0, "max_restarts": -1, "max_concurrency": 1000}
    return ray.remote(_Feeder).options(scheduling_strategy=beside_caller(soft=True), **options).remote(is_alone())
