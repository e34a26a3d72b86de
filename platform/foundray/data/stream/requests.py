"""Workers that wait for a lease, in the feeder's event loop.

A change answers the workers whom it concerns. It does not wake the others: with thousands of them, each lease would.
"""

from __future__ import annotations

import asyncio
from collections import deque

from foundray.data.stream.division import Division
from foundray.data.stream.leases import Lease


class Requests:
    """The waiting workers of a stream. A worker has one request at a time."""

    def __init__(self, division: Division):
        self.division = division
        self.replies: dict[int, tuple[int, asyncio.Future[Lease]]] = {}
        """By rank, the step that is asked for, and the reply."""
        self.by_step: dict[int, deque[int]] = {}
        """By step, ranks in the order of their requests; some may have been answered since."""

    def add(self, step: int, rank: int) -> asyncio.Future[Lease]:
        """Let a worker wait for a lease of the step."""
        reply: asyncio.Future[Lease] = asyncio.get_running_loop().create_future()
        self.replies[rank] = step, reply
        self.by_step.setdefault(step, deque()).append(rank)
        return reply

    def answer(self) -> None:
        """Answer all that need not wait any longer, after data have arrived or a lease was given."""
        # What was dealt before its data were there.
        for rank in self.division.ready_ranks():
            if rank in self.replies:
                self._answered(rank, self.replies[rank][0])
        # Steps that have begun, and the current one in the order of the requests, until one has to wait for data.
        while self.by_step and (step := min(self.by_step)) <= self.division.current:
            waiting = self.by_step[step]
            while waiting:
                if not self._answered(waiting[0], step) and step == self.division.current:
                    return
                waiting.popleft()
            del self.by_step[step]

    def end(self, error: BaseException | None = None) -> None:
        """Answer all: with the error, or else with nothing more of the step."""
        for step, reply in self.replies.values():
            if reply.done():
                continue
            if error:
                reply.set_exception(error)
            else:
                reply.set_result(Lease(step + 1))
        self.replies, self.by_step = {}, {}

    def _answered(self, rank: int, step: int) -> bool:
        """Answer the worker's request for the step if it need not wait; True if none is left."""
        asked, reply = self.replies.get(rank, (-1, None))
        if asked != step or reply is None:
            return True
        if not reply.done():
            if (lease := self.division.take(step, rank)) is None:
                return False
            reply.set_result(lease)
        del self.replies[rank]
        return True
