"""Where a run's newest complete state lies after workers are lost, and who holds whose replica.

The state is cut into *state shards*: a range of blocks, at a step, in a worker's memory. Every worker holds the shards it
owns, live and as of the last replication, and the replicas it keeps for another node. Shards of one step that cover all
blocks are the complete state, no matter who holds them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field


@dataclass(frozen=True, order=True)
class StateShard:
    """A part of the state in a worker's memory."""

    step: int
    """Number of updates made."""
    generation: int
    """The group that made it. With rounded sums, two groups' states of one step differ, so they are never mixed."""
    start: int
    stop: int
    """Blocks [start, stop)."""
    losses: tuple[tuple[int, float], ...] = field(default=(), compare=False)
    """The spike guard's window after this step: (step, loss), the same in all shards of a state."""
    made_under: str = ""
    """Id of the run's last cut when it was made."""


@dataclass(frozen=True)
class Source:
    """Where a complete state lies in memory."""

    step: int
    shards: tuple[tuple[int, StateShard], ...]
    """(holder, shard) in block order; together they cover every block at least once."""

    @property
    def losses(self) -> tuple[tuple[int, float], ...]:
        """The spike guard's window of this state."""
        return self.shards[0][1].losses


def newest_complete(held: Mapping[int, Iterable[StateShard]], blocks: int) -> Source | None:
    """Find the newest state that the holders' shards cover, or None."""
    by_state: dict[tuple[int, int], list[tuple[int, StateShard]]] = {}
    for holder, shards in sorted(held.items()):
        for shard in shards:
            by_state.setdefault((shard.step, shard.generation), []).append((holder, shard))
    for (step, _), found in sorted(by_state.items(), reverse=True):
        if cover := _cover(found, blocks):
            return Source(step, cover)
    return None


def _cover(found: list[tuple[int, StateShard]], blocks: int) -> tuple[tuple[int, StateShard], ...] | None:
    """Choose few shards that cover [0, blocks): at each point the one that reaches furthest."""
    chosen, reached = [], 0
    while reached < blocks:
        best = max((f for f in found if f[1].start <= reached), key=lambda f: f[1].stop, default=None)
        if best is None or best[1].stop <= reached:
            return None
        chosen.append(best)
        reached = best[1].stop
    return tuple(chosen)


def replica_ranks(nodes: Sequence[str]) -> list[int | None]:
    """For each rank, return the rank that keeps its replica: the next one on another node. `nodes` gives each rank's node.

    On a single node it is the next rank; a lone worker has none.
    """
    world = len(nodes)

    def replica_rank(rank: int) -> int | None:
        others = [(rank + ahead) % world for ahead in range(1, world)]
        return next((other for other in others if nodes[other] != nodes[rank]), others[0] if others else None)

    return [replica_rank(rank) for rank in range(world)]
