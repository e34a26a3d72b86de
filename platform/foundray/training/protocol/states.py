"""Where a run's newest complete state lies after workers are lost, and who holds whose replica.

The state is cut into *state shards*: a range of blocks, at a step, in a worker's memory. Every worker holds the shards it
owns, live and as of the last replication, and the replicas it keeps for another node. Shards of one step that cover all
blocks are the complete state, no matter who holds them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace


@dataclass(frozen=True, order=True)
class StateShard:
    """A part of the state in a worker's memory."""

    step: int
    """Number of updates made."""
    generation: int
    """The group that made it. With rounded sums, two groups' states of one step differ, so they are never mixed."""
    start: int
    stop: int
    """Blocks [start, stop), as numbered in that group's order."""
    losses: tuple[tuple[int, float], ...] = field(default=(), compare=False)
    """The spike guard's window after this step: (step, loss), the same in all shards of a state."""
    made_under: str = ""
    """Id of the run's last cut when it was made."""
    team: int = 1
    """Workers of a team in that group, on which the order of the blocks depends (`step.team.holding`)."""


@dataclass(frozen=True)
class Source:
    """Where a complete state lies in memory."""

    step: int
    shards: tuple[tuple[int, StateShard], ...]
    """(holder, shard) in block order; together they cover every block at least once."""

    @property
    def state(self) -> tuple[int, int]:
        """(generation, step)."""
        return self.shards[0][1].generation, self.step

    @property
    def made_under(self) -> str:
        """Id of the last cut under which it was made."""
        return self.shards[0][1].made_under

    @property
    def losses(self) -> tuple[tuple[int, float], ...]:
        """The spike guard's window of this state."""
        return self.shards[0][1].losses


def newest_complete(held: Mapping[int, Iterable[StateShard]], blocks: int) -> Source | None:
    """Find the newest state that the holders' shards cover, or None; of one step, that of the first group to make it.

    Groups that break while they join make such states anew, and each holder keeps the one it was told to start from. Only the
    first shard holds the spike guard's window: with thousands of workers it would fill their orders.
    """
    by_state: dict[tuple[int, int], list[tuple[int, StateShard]]] = {}
    for holder, shards in sorted(held.items()):
        for shard in shards:
            by_state.setdefault((shard.step, shard.generation), []).append((holder, shard))
    for step, generation in sorted(by_state, key=lambda state: (-state[0], state[1])):
        if cover := _cover(by_state[step, generation], blocks):
            return Source(step, (cover[0], *((holder, replace(shard, losses=())) for holder, shard in cover[1:])))
    return None


def _cover(found: list[tuple[int, StateShard]], blocks: int) -> tuple[tuple[int, StateShard], ...] | None:
    """Choose few shards that cover [0, blocks): at each point the one that reaches furthest, the first of equal ones."""
    # In order of their starts, each shard is looked at once: a group of thousands holds thousands of shards.
    waiting = iter(sorted(enumerate(found), key=lambda item: item[1][1].start))
    following = next(waiting, None)
    chosen, reached, furthest = [], 0, (0, 0)
    while reached < blocks:
        while following is not None and following[1][1].start <= reached:
            furthest = max(furthest, (following[1][1].stop, -following[0]))
            following = next(waiting, None)
        if furthest[0] <= reached:
            return None
        chosen.append(found[-furthest[1]])
        reached = furthest[0]
    return tuple(chosen)


def replica_ranks(nodes: Sequence[str]) -> list[int | None]:
    """For each rank, return the rank that keeps its replica, which is on another node. `nodes` gives each rank's node.

    If no node has more than half of the workers, every worker keeps one replica: with nodes of equal size, the k-th worker of
    a node has the k-th of the next. Otherwise the workers outside the largest node share that node's replicas equally. On a
    single node it is the next rank; a lone worker has none.
    """
    by_node: dict[str, list[int]] = {}
    for rank, node in enumerate(nodes):
        by_node.setdefault(node, []).append(rank)
    holders: list[int | None] = [None] * len(nodes)
    if len(nodes) < 2:
        return holders
    largest = max(by_node, key=lambda node: len(by_node[node]))
    inside = by_node[largest]
    outside = [rank for node, ranks in by_node.items() if node != largest for rank in ranks]
    if len(inside) > len(outside) > 0:
        pairs = [(rank, outside[k % len(outside)]) for k, rank in enumerate(inside)]
        pairs += zip(outside, inside, strict=False)
    else:
        # Node after node, the rank that is a largest node further is on another node, as no node reaches that far.
        ring, ahead = [rank for ranks in by_node.values() for rank in ranks], len(inside) if outside else 1
        pairs = list(zip(ring, [*ring[ahead:], *ring[:ahead]], strict=True))
    for rank, holder in pairs:
        holders[rank] = holder
    return holders
