"""Which worker gets which micro-batches of a stream, and when.

Workers *lease* micro-batches of a step: first most of their share by measured speed, then smaller parts of what is left
(factoring, Hummel, Schonberg and Flynn 1992), so that a worker that is faster than estimated takes micro-batches from slower
ones. Near the end a slow worker gets no more: the others finish sooner.

That takes several calls per worker and step. If they are more than the feeder can answer, the whole step is *dealt* at once, by
speed. So are several short steps: within half a second a change of speed costs less than the calls. Large groups are dealt
steps for more seconds, so that the feeder gets about the same number of calls per second for any number of workers.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterator
from itertools import accumulate, pairwise

from foundray.data.stream.buffer import Buffer
from foundray.data.stream.leases import Lease
from foundray.data.stream.shares import Paces, duration, shares

FIRST, FURTHER = 0.75, 0.5
"""Fractions that a worker leases at once: first of its share of the step, then of its share of what is left."""
AHEAD_SECONDS = 0.5
"""Steps that take at most this long together are dealt at once: a worker that slows down delays the others by this long."""
CALLS_PER_SECOND = 200
"""Calls that the feeder should not exceed: on two cores Ray passes some 400 per second to an actor."""

_Dealt = tuple[int, list[tuple[int, int]]]
"""(the worker's share of all steps before this one is complete, [start, stop) of its micro-batches in each step)"""


class Division:
    """The part of a stream that is divided among the workers so far.

    A step costs time linear in its micro-batches and workers, and a lease none that depends on the workers.
    """

    def __init__(self, per_step: int, first_step: int, end: int, workers: int, buffer: Buffer):
        """Divide micro-batches [first_step * per_step, end), which arrive in `buffer`."""
        self.per_step, self.next, self.end, self.buffer = per_step, first_step * per_step, end, buffer
        self.begin(workers)

    def begin(self, workers: int) -> None:
        """Set the number of workers, before the first lease."""
        self.paces = Paces(workers)
        self.step = -1
        """The step to which the fields up to `refused` belong."""
        self.counts: list[int] = []
        """Micro-batches of each worker if the step is dealt."""
        self.ahead = 1
        """Most steps to deal at once."""
        self.must_deal = False
        """Whether leases in parts would be too many calls."""
        self.leased: set[int] = set()
        """Ranks that have a lease."""
        self.refused: set[int] = set()
        """Ranks that were refused more. One worker of a step is never refused, so nothing is left over."""
        self.dealt: dict[int, deque[_Dealt]] = {}
        """By rank, what is dealt and not collected yet."""
        self.unready: deque[tuple[int, int]] = deque()
        """(end of its micro-batches, rank) of what was dealt before its data were there, in order."""

    @property
    def current(self) -> int:
        """The first step that is not divided whole."""
        return self.next // self.per_step

    def take(self, step: int, rank: int) -> Lease | None:
        """Lease a share of what is left of the step.

        Empty if nothing is left or the others finish sooner without this worker; None if it has to wait.
        """
        if rank in self.dealt:
            return self._collect(rank)
        # Settle the cases without a choice: an earlier step has micro-batches left for others, or this one has none.
        last = min((step + 1) * self.per_step, self.end)
        left = last - self.next
        if self.next < step * self.per_step:
            return None
        if left <= 0:
            return Lease(step + 1)
        if self.step != step:
            self._begin_step(step)
        # At the start of a step, deal it and the next ones if that saves calls.
        if self.next == step * self.per_step and self._deal():
            return self._collect(rank)
        # Refuse a slow worker near the end, unless all others were refused.
        others_refused = len(self.refused) - (rank in self.refused)
        if self.paces.others_finish_first(left, rank) and others_refused < self.paces.workers - 1:
            self.refused.add(rank)
            return Lease(step + 1)
        if self.buffer.end <= self.next:
            return None
        # Lease part of the worker's share: a large part first, then smaller ones, so that errors in its pace even out.
        start, self.next = self.next, self.next + self._part(rank, left)
        return self._lease(step + 1 if self.next == last else step, [(start, self.next)])

    def ready_ranks(self) -> Iterator[int]:
        """Yield the workers whose dealt micro-batches have arrived since the last call."""
        while self.unready and self.unready[0][0] <= self.buffer.end:
            yield self.unready.popleft()[1]

    def _begin_step(self, step: int) -> None:
        """Look at all workers' paces, once per step."""
        self.step, self.leased, self.refused = step, set(), set()
        self.paces.settle()
        pace, workers = self.paces.all(), self.paces.workers
        self.counts = shares(self.per_step, pace)
        seconds = duration(self.counts, pace)
        # Without a measurement, one step at a time.
        wanted = max(AHEAD_SECONDS, workers / CALLS_PER_SECOND)
        self.ahead = max(1, int(wanted / seconds)) if self.paces.measured else 1
        self.must_deal = workers > 1 and leases_in_parts(self.per_step, workers) > CALLS_PER_SECOND * seconds

    def _deal(self) -> bool:
        """Deal several steps if their data are ready, or one in any case if it must be; False if none is dealt."""
        ready = (min(self.buffer.end, self.end) - self.next) // self.per_step
        steps = min(ready, self.ahead)
        if steps < 2:
            if not self.must_deal or self.next + self.per_step > self.end:
                return False
            steps = 1
        firsts = range(self.next, self.next + steps * self.per_step, self.per_step)
        for rank, (start, stop) in enumerate(pairwise(accumulate(self.counts, initial=0))):
            ranges = [(first + start, first + stop) for first in firsts] if stop > start else []
            self.dealt.setdefault(rank, deque()).append((self.step + steps, ranges))
            if ranges and ranges[-1][1] > self.buffer.end:
                self.unready.append((ranges[-1][1], rank))
        self.next += steps * self.per_step
        return True

    def _collect(self, rank: int) -> Lease | None:
        """The next lease that was dealt to the worker; None while its data are not there."""
        waiting = self.dealt[rank]
        until, ranges = waiting[0]
        if ranges and ranges[-1][1] > self.buffer.end:
            return None
        waiting.popleft()
        if not waiting:
            del self.dealt[rank]
        return self._lease(until, ranges)

    def _part(self, rank: int, left: int) -> int:
        """Number of micro-batches that the worker leases of the `left` ones of this step."""
        ready = min(left, self.buffer.end - self.next)
        if self.paces.workers == 1:
            return ready
        share, first = self.paces.share(rank), rank not in self.leased
        self.leased.add(rank)
        part = FIRST * share * self.per_step if first else FURTHER * share * left
        return min(max(1, int(part)), ready)

    def _lease(self, until: int, ranges: list[tuple[int, int]]) -> Lease:
        """The lease of these micro-batches, with their parcels, each once."""
        parcels = {parcel[0]: parcel for start, stop in ranges for parcel in self.buffer.hand_out(start, stop)}
        listed = [(first, count, [ref]) for first, count, ref in parcels.values()]
        return Lease(until, [position for start, stop in ranges for position in range(start, stop)], listed)


def leases_in_parts(per_step: int, workers: int) -> float:
    """Approximate number of leases for a step that is not dealt.

    Each worker takes its first; then rounds of one further lease each leave a part exp(-1/2) of what was left, down to two
    micro-batches per worker, which it takes one by one; at last it hears that there are no more.
    """
    left = (1 - FIRST) * per_step / workers
    return workers * (4 + 2 * math.log(max(1.0, left / 2)))
