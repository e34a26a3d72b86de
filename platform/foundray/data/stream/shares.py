"""How a step's micro-batches are divided among workers, by their measured speed."""

from __future__ import annotations

import heapq
from collections.abc import Sequence


class Paces:
    """Each worker's seconds per micro-batch, as measured; workers not measured yet count as average.

    Only `settle` and `all` look at every worker; the rest takes the same time for any number of them.
    """

    def __init__(self, workers: int):
        self.workers = workers
        self.measured: dict[int, float] = {}
        """Seconds by rank."""
        self.total = self.rate = 0.0
        """Sums of the measured seconds per micro-batch, and of the measured micro-batches per second."""
        self.fastest: list[tuple[float, int]] = []
        """(seconds, rank) of the fastest two workers, as of the last `settle`."""

    def note(self, rank: int, seconds: float) -> None:
        """Take a measurement; 0 is none."""
        if not seconds:
            return
        if before := self.measured.get(rank):
            self.total -= before
            self.rate -= 1 / before
        self.measured[rank] = seconds
        self.total += seconds
        self.rate += 1 / seconds

    def settle(self) -> None:
        """Find the fastest workers, and remove the rounding errors of the sums."""
        self.total, self.rate = sum(self.measured.values()), sum(1 / seconds for seconds in self.measured.values())
        self.fastest = heapq.nsmallest(2, ((seconds, rank) for rank, seconds in enumerate(self.all())))

    def all(self) -> list[float]:
        """Every worker's seconds, by rank."""
        unknown = self._unknown
        return [self.measured.get(rank, unknown) for rank in range(self.workers)]

    def of(self, rank: int) -> float:
        return self.measured.get(rank, self._unknown)

    def share(self, rank: int) -> float:
        """The worker's part of all workers' speed."""
        return 1 / self.of(rank) / self._speed

    def others_finish_first(self, left: int, rank: int) -> bool:
        """Whether the others would finish the `left` micro-batches before worker `rank` finishes one more.

        Each of them may have one in progress.
        """
        if self.workers < 2:
            return False
        fastest = next(seconds for seconds, other in self.fastest if other != rank)
        return self.of(rank) > fastest + left / (self._speed - 1 / self.of(rank))

    @property
    def _unknown(self) -> float:
        return self.total / len(self.measured) if self.measured else 1.0

    @property
    def _speed(self) -> float:
        """Micro-batches per second of all workers together."""
        return self.rate + (self.workers - len(self.measured)) / self._unknown


def shares(micro_batches: int, pace: Sequence[float]) -> list[int]:
    """Number of micro-batches per worker that finishes the step earliest.

    `pace` is each worker's seconds per micro-batch.
    """
    # Greedy: each micro-batch goes to the worker that becomes free first.
    counts = [0] * len(pace)
    finish = [(seconds, rank) for rank, seconds in enumerate(pace)]
    heapq.heapify(finish)
    for _ in range(micro_batches):
        time, rank = finish[0]
        counts[rank] += 1
        heapq.heapreplace(finish, (time + pace[rank], rank))
    return counts


def duration(counts: Sequence[int], pace: Sequence[float]) -> float:
    """Seconds per step if each worker computes its count."""
    return max(count * seconds for count, seconds in zip(counts, pace, strict=True))
