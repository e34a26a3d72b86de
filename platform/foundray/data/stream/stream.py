"""A stream of parcels that are read ahead of the workers, and the rule by which it leases micro-batches to them.

Workers *lease* micro-batches of a step: first most of their share by measured speed, then smaller parts of what is left
(factoring, Hummel, Schonberg and Flynn 1992), so that a worker that is faster than estimated takes micro-batches from slower
ones. Near the end a slow worker gets no more: the others finish sooner. Several short steps are assigned at once, by speed:
within half a second a change of speed costs less than the calls.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from typing import Any

from foundray.data.alone import without_helpers
from foundray.data.stream.leases import Lease
from foundray.data.stream.plan import Parcel, StreamPlan
from foundray.data.stream.shares import duration, others_finish_first, positions_by_worker, shares

BUFFERED_PARCELS = 8
KEPT_PARCELS = 32
"""Most leased parcels kept for a group that has to repeat their steps."""
STORE_BYTES = 2**28
"""Object store memory that Ray Data may use."""
FIRST, FURTHER = 0.75, 0.5
"""Fractions that a worker leases at once: first of its share of the step, then of its share of what is left."""
AHEAD_SECONDS = 0.5
"""Steps that take at most this long together are assigned at once: a worker that slows down delays the others by this long."""

Post = Callable[[Callable[[], None]], None]
"""Runs a function in the feeder's event loop."""


class Stream:
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
        """`buffered` are parcels from the first step on. Nothing is read before `start`."""
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

    def start(self) -> None:
        """Start to read."""
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
