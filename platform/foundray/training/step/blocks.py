"""How the flat space is cut between workers: in blocks. Nothing here needs torch."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate

BLOCK = 256
"""Elements of a block: see `training/flat`."""
ALIKE = 0.75
"""Workers of which the one with the least memory has at least this part of what the one with the most has own equal shards."""


def shard_bounds(blocks: int, room: Sequence[float]) -> tuple[int, ...]:
    """Where workers' shards begin and end, in blocks: worker i owns [bounds[i], bounds[i + 1]).

    Shares are equal, the last ones padded past the end, unless the workers' `room` in memory differs much: then they are
    in its proportion.
    """
    world = len(room)
    if min(room) > ALIKE * max(room):
        return tuple(rank * -(-blocks // world) for rank in range(world + 1))
    return tuple(round(blocks * part / sum(room)) for part in accumulate(room, initial=0.0))
