"""Which worker computed which micro-batch, run-length encoded: [rank, count] pairs in micro-batch order.

A step of 4,096 micro-batches has few leases, so a few pairs replace 4,096 numbers.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from itertools import groupby
from typing import Any

Runs = list[tuple[int, int]]
MOST = 2**31
"""Upper bound of ranks and counts: data frames store them in 32 bits."""


def runs(ranks: Iterable[int]) -> Runs:
    """Encode the ranks of micro-batches 0, 1, ... as [(rank, count), ...]."""
    return [(rank, sum(1 for _ in same)) for rank, same in groupby(ranks)]


def ranks(takers: Iterable[Any]) -> Iterator[int]:
    """Yield the rank of each micro-batch in turn."""
    for rank, count in runs_of(takers):
        yield from (rank for _ in range(count))


def runs_of(takers: Iterable[Any]) -> Runs:
    """Return runs, given runs or the plain list of ranks of earlier versions. Raises ValueError for anything else."""
    listed = list(takers)
    if listed and type(listed[0]) is int:
        listed = runs(listed)
    pairs: Runs = []
    for taker in listed:
        try:
            rank, count = taker
        except (TypeError, ValueError):
            raise ValueError(f"has a taker {taker!r:.40}, which is not [rank, count]") from None
        if type(rank) is not int or type(count) is not int or not (0 <= rank < MOST and 1 <= count < MOST):
            raise ValueError(f"has a taker {taker!r:.40}, which is not [rank, count]")
        pairs.append((rank, count))
    return pairs


def counts(takers: Iterable[Any]) -> Counter[int]:
    """Count micro-batches by rank."""
    total: Counter[int] = Counter()
    for rank, count in runs_of(takers):
        total[rank] += count
    return total
