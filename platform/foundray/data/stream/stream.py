"""A stream: parcels that are read ahead of the workers, their division among them, and the workers that wait."""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial

from foundray.data.alone import without_helpers
from foundray.data.stream.buffer import Buffer
from foundray.data.stream.division import AHEAD_SECONDS, CALLS_PER_SECOND, Division
from foundray.data.stream.leases import Lease
from foundray.data.stream.plan import Parcel, StreamPlan
from foundray.data.stream.requests import Requests

BUFFERED_PARCELS = 8
"""Parcels that are read ahead of what is dealt, by default."""
BYTES_PER_WORKER = 2**21
"""Bytes that are read ahead at most for each worker of a large group, so that it can be dealt several steps."""
STORE_BYTES = 2**28
"""Object store memory that Ray Data may use."""

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
        self.plan, self.end, self.post, self.ray_data = plan, end, post, ray_data
        self.buffer = Buffer(first_step * per_step, buffered)
        self.division = Division(per_step, first_step, end, 1, self.buffer)
        self.requests = Requests(self.division)
        self.pipeline_first = self.buffer.end
        """First micro-batch from the pipeline; only parcels from here on take room."""
        self.error: BaseException | None = None
        self.room, self.rooms = threading.Semaphore(BUFFERED_PARCELS), BUFFERED_PARCELS
        """Parcels that the pipeline may still read, and those for which there is room in all."""
        self.ends: deque[int] = deque()
        """Ends of the parcels that take room."""
        self.closed = False
        self.computing = threading.Event()
        """Set after the first lease, or when the stream is closed."""

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
        if self.closed:  # a parcel may arrive after the stream was closed
            return
        self.buffer.append(parcel)
        self.ends.append(self.buffer.end)
        self._widen(parcel[1])
        self._answer()

    def _fail(self, error: BaseException) -> None:
        self.error = error
        self.requests.end(error)

    def lease(self, step: int, rank: int, seconds: float) -> Lease | asyncio.Future[Lease]:
        """Lease a worker its next micro-batches of the step; a future if it has to wait. Raises the pipeline's error.

        `seconds` is its measured time per micro-batch; 0 if unknown.
        """
        if self.error:
            raise self.error
        self.division.paces.note(rank, seconds)
        lease = self.division.take(step, rank)
        reply = self.requests.add(step, rank) if lease is None else lease
        self._answer()
        return reply

    def _answer(self) -> None:
        """Answer the workers that wait and can continue, and let the pipeline read more."""
        self.requests.answer()
        # What is dealt takes no room, so a step may exceed the buffer; leases keep the parcels alive.
        while self.ends and self.ends[0] <= self.division.next:
            self.ends.popleft()
            self.room.release()

    def _widen(self, micro_batches: int) -> None:
        """Let the pipeline read as many steps ahead as a large group should be dealt; a parcel has this many micro-batches."""
        if (workers := self.division.paces.workers) <= AHEAD_SECONDS * CALLS_PER_SECOND:
            return
        wanted = BUFFERED_PARCELS + self.division.ahead * self.division.per_step // micro_batches
        wanted = min(wanted, BYTES_PER_WORKER * workers // (self.plan.micro_batch_bytes * micro_batches))
        while self.rooms < wanted:
            self.rooms += 1
            self.room.release()

    def close(self, error: BaseException | None = None) -> list[Parcel]:
        """End the pipeline, and return the parcels that are kept. Workers that wait get the error, or else no more."""
        self.closed = True
        self.requests.end(error)
        self.computing.set()
        self.room.release()
        return self.buffer.close()


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
