"""How workers divide the flat parameter space: by blocks. Nothing here needs torch."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate

BLOCK = 256
"""Elements per block; see `step/flat`."""
EQUAL_FROM = 0.75
"""Shards are equal if the least memory of a worker is more than this fraction of the most."""


def shard_bounds(blocks: int, room: Sequence[float]) -> tuple[int, ...]:
    """The bounds of workers' shards, in blocks: worker i owns [bounds[i], bounds[i + 1]).

    Shards are equal, the last ones padded past the end. If the workers' `room` in memory differs much, they are proportional
    to it.
    """
    world = len(room)
    if min(room) > EQUAL_FROM * max(room):
        return tuple(rank * -(-blocks // world) for rank in range(world + 1))
    return tuple(round(blocks * part / sum(room)) for part in accumulate(room, initial=0.0))
