"""Which worker computed which micro-batch, run-length encoded: [rank, count] pairs in micro-batch order.

In a small group, a step of 4,096 micro-batches has few leases, so a few pairs replace 4,096 numbers. Of a large group, a record
holds less: the log would grow with the workers, and a step's result does not depend on which of them computed what.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from itertools import groupby
from typing import Any

Runs = list[tuple[int, int]]
MOST_PAIRS = 64
"""Most pairs in every step's record: half a kilobyte, about as much as the rest of it."""
EVERY = 100
"""Of a larger group, one step of this many holds the workers' counts."""
MOST = 2**31
"""Upper bound of ranks and counts: data frames store them in 32 bits."""


def runs(ranks: Iterable[int]) -> Runs:
    """Encode the ranks of micro-batches 0, 1, ... as [(rank, count), ...]."""
    return [(rank, sum(1 for _ in same)) for rank, same in groupby(ranks)]


def recorded(step: int, ranks: Iterable[int]) -> Runs:
    """What the record of a step holds of the ranks of its micro-batches 0, 1, ...: few pairs.

    With too many runs, it is each worker's count, by rank. With too many workers even for that, only some steps hold it, and
    the others nothing.
    """
    pairs = runs(ranks)
    if len(pairs) > MOST_PAIRS:
        pairs = sorted(counts(pairs).items())
    return pairs if len(pairs) <= MOST_PAIRS or step % EVERY == 0 else []


def may_be_missing(step: int, workers: int) -> bool:
    """Whether the record of a step by this many workers may hold nothing."""
    return workers > MOST_PAIRS and step % EVERY > 0


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
