"""Whether shards hold every block of a state exactly once."""

from __future__ import annotations

from collections.abc import Iterable


def problem_of(shards: Iterable[tuple[str, Iterable[tuple[int, int]], int]], blocks: int) -> str:
    """Why shards, given as (name, block ranges [start, stop), generation), are not the whole state; empty if they are."""
    generations, ranges = set(), []
    for name, held, generation in shards:
        generations.add(generation)
        ranges += [(start, stop, name) for start, stop in held]
    if len(generations) > 1:
        return f"its shards are of the worker groups {' and '.join(map(str, sorted(generations)))}"
    reached = 0
    for start, stop, name in sorted(ranges):
        if start < reached:
            return f"blocks {start:,} to {min(stop, reached):,} are in {name} and in another shard"
        if start > reached:
            return f"blocks {reached:,} to {start:,} are in no shard"
        reached = stop
    if reached > blocks:
        return f"its shards hold {reached:,} blocks, and the model has {blocks:,}"
    return f"blocks {reached:,} to {blocks:,} are in no shard" if reached < blocks else ""
