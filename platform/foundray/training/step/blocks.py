"""How workers divide the flat parameter space: by blocks. Nothing here needs torch."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate

BLOCK = 256
"""Elements per block; see `step/flat`."""
EQUAL_FROM = 0.75
"""Shards are equal if the least memory of a worker is more than this fraction of the most."""


@dataclass(frozen=True)
class Blocks:
    """Blocks of the flat space in an order: ranges, one after another."""

    ranges: tuple[range, ...]

    def __len__(self) -> int:
        return sum(map(len, self.ranges))

    def __iter__(self) -> Iterator[int]:
        return (block for run in self.ranges for block in run)

    def part(self, start: int, stop: int) -> Blocks:
        """The blocks from position `start` to `stop`; positions past the end are none."""
        found, before = list[range](), 0
        for run in self.ranges:
            if cut := run[max(start - before, 0) : max(stop - before, 0)]:
                if found and found[-1].stop == cut.start:
                    found[-1] = range(found[-1].start, cut.stop)
                else:
                    found.append(cut)
            before += len(run)
        return Blocks(tuple(found))


def shard_bounds(blocks: int, room: Sequence[float]) -> tuple[int, ...]:
    """The bounds of workers' shards, in blocks: worker i owns [bounds[i], bounds[i + 1]).

    Shards are equal, the last ones padded past the end. If the workers' `room` in memory differs much, they are proportional
    to it.
    """
    world = len(room)
    if min(room) > EQUAL_FROM * max(room):
        return tuple(rank * -(-blocks // world) for rank in range(world + 1))
    return tuple(round(blocks * part / sum(room)) for part in accumulate(room, initial=0.0))


def shard_of(bounds: Sequence[int], rank: int, blocks: int) -> range:
    """What a worker owns of `blocks` blocks, without the padding, by the bounds of `shard_bounds`."""
    return range(min(bounds[rank], blocks), min(bounds[rank + 1], blocks))


def overlaps(ranges: Iterable[tuple[int, int]], blocks: Blocks) -> Iterator[tuple[int, int, int]]:
    """Where blocks of `ranges`, one after another, are in `blocks`: (position in the ranges, position there, number)."""
    there = 0
    for first, last in ranges:
        here = 0
        for run in blocks.ranges:
            start, stop = max(run.start, first), min(run.stop, last)
            if start < stop:
                yield there + start - first, here + start - run.start, stop - start
            here += len(run)
        there += last - first
