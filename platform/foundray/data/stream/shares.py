"""How a step's micro-batches are divided among workers, by their measured speed."""

from __future__ import annotations

import heapq
from itertools import accumulate


def shares(micro_batches: int, pace: list[float]) -> list[int]:
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


def duration(counts: list[int], pace: list[float]) -> float:
    """Seconds per step if each worker computes its count."""
    return max(count * seconds for count, seconds in zip(counts, pace, strict=True))


def positions_by_worker(counts: list[int], per_step: int, first: int, steps: int) -> list[list[int]]:
    """Stream positions of each worker, for `steps` steps from position `first`."""
    starts = [0, *accumulate(counts)]
    return [
        [first + step * per_step + index for step in range(steps) for index in range(start, start + count)]
        for start, count in zip(starts, counts, strict=False)
    ]


def others_finish_first(left: int, rank: int, pace: list[float]) -> bool:
    """Whether the others would finish the `left` micro-batches before worker `rank` finishes one more.

    Each of them may have one in progress.
    """
    others = [seconds for other, seconds in enumerate(pace) if other != rank]
    return bool(others) and pace[rank] > min(others) + left / sum(1 / seconds for seconds in others)
