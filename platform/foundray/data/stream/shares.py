"""Who computes how much of a step: whole micro-batches, by the workers' measured speed."""

from __future__ import annotations

import heapq
from itertools import accumulate


def shares(micro_batches: int, pace: list[float]) -> list[int]:
    """How many of a step's micro-batches each worker computes for all to be done as early as can be.

    `pace` holds every worker's seconds per micro-batch.
    """
    counts = [0] * len(pace)
    done = [(seconds, rank) for rank, seconds in enumerate(pace)]
    heapq.heapify(done)
    for _ in range(micro_batches):
        at, rank = done[0]
        counts[rank] += 1
        heapq.heapreplace(done, (at + pace[rank], rank))
    return counts


def duration(counts: list[int], pace: list[float]) -> float:
    """Seconds that the micro-batches of a step take, if each worker computes its count."""
    return max(count * seconds for count, seconds in zip(counts, pace, strict=True))


def dealt(counts: list[int], per_step: int, first: int, steps: int) -> list[list[int]]:
    """Every worker's positions in the stream, of `steps` steps from the position `first` on."""
    starts = [0, *accumulate(counts)]
    return [
        [first + step * per_step + index for step in range(steps) for index in range(start, start + count)]
        for start, count in zip(starts, counts, strict=False)
    ]


def better_left(left: int, rank: int, pace: list[float]) -> bool:
    """Whether the others would be done with what is left before this worker with one more micro-batch.

    They may each have one under way.
    """
    others = [seconds for other, seconds in enumerate(pace) if other != rank]
    return bool(others) and pace[rank] > min(others) + left / sum(1 / seconds for seconds in others)
