"""Which worker took which micro-batch, as runs: [rank, count] pairs in the order of the micro-batches.

A step of 4,096 micro-batches has few leases, so a few pairs tell what 4,096 numbers would.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from itertools import groupby
from typing import Any

Runs = list[tuple[int, int]]


def runs(ranks: Iterable[int]) -> Runs:
    """[(rank, count), ...] of the ranks that took micro-batches 0, 1, ..."""
    return [(rank, sum(1 for _ in same)) for rank, same in groupby(ranks)]


def ranks(takers: Iterable[Any]) -> Iterator[int]:
    """The rank of each micro-batch in turn."""
    for rank, count in runs_of(takers):
        yield from (rank for _ in range(count))


def runs_of(takers: Iterable[Any]) -> Runs:
    """Runs, of runs or of the plain list of ranks that earlier versions recorded. Raises ValueError for anything else."""
    listed = list(takers)
    if all(type(taker) is int for taker in listed):
        return runs(listed)
    pairs: Runs = []
    for taker in listed:
        if not isinstance(taker, (list, tuple)) or [type(number) for number in taker] != [int, int] or taker[1] < 1:
            raise ValueError(f"{taker!r:.40} is no [rank, count]")
        pairs.append((taker[0], taker[1]))
    return pairs


def counts(takers: Iterable[Any]) -> Counter[int]:
    """Micro-batches by rank."""
    total: Counter[int] = Counter()
    for rank, count in runs_of(takers):
        total[rank] += count
    return total
