"""Where the newest whole state of a run lies when workers are gone, and who mirrors whom so that there is one.

The state of a run is cut into *pieces*: a range of blocks, at a step, in the memory of a worker. Every worker holds the
pieces that it owns, live and as of the last mirroring, and those that it mirrors for another node. A set of pieces of
one step that covers all blocks is the whole state, whoever holds them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field


@dataclass(frozen=True, order=True)
class StateShard:
    """A part of the state in somebody's memory."""

    step: int
    """Updates that it has had."""
    generation: int
    """The worker group that made it. With rounded sums two groups' states of one step differ, so they are not mixed."""
    start: int
    stop: int
    """Blocks [start, stop)."""
    losses: tuple[tuple[int, float], ...] = field(default=(), compare=False)
    """The spike guard's window after this step: (step, loss), the same in all pieces of a state."""


@dataclass(frozen=True)
class Source:
    """Where a whole state lies in memory."""

    step: int
    pieces: tuple[tuple[int, StateShard], ...]
    """(holder, piece), which cover every block once or more, in block order."""

    @property
    def losses(self) -> tuple[tuple[int, float], ...]:
        """The spike guard's window that belongs to it."""
        return self.pieces[0][1].losses


def newest_whole(held: Mapping[int, Iterable[StateShard]], blocks: int) -> Source | None:
    """The newest state that the holders' pieces cover, or None."""
    by_state: dict[tuple[int, int], list[tuple[int, StateShard]]] = {}
    for holder, pieces in sorted(held.items()):
        for piece in pieces:
            by_state.setdefault((piece.step, piece.generation), []).append((holder, piece))
    for (step, _), found in sorted(by_state.items(), reverse=True):
        if cover := _cover(found, blocks):
            return Source(step, cover)
    return None


def _cover(found: list[tuple[int, StateShard]], blocks: int) -> tuple[tuple[int, StateShard], ...] | None:
    """Few pieces that cover [0, blocks): at each point the one that reaches furthest."""
    chosen, reached = [], 0
    while reached < blocks:
        best = max((f for f in found if f[1].start <= reached), key=lambda f: f[1].stop, default=None)
        if best is None or best[1].stop <= reached:
            return None
        chosen.append(best)
        reached = best[1].stop
    return tuple(chosen)


def buddies(nodes: Sequence[str]) -> list[int | None]:
    """For each rank, which runs on the node given, the rank that mirrors its piece: the next one on another node.

    Where all run on one node, the next one; alone, nobody.
    """
    world = len(nodes)

    def buddy(rank: int) -> int | None:
        others = [(rank + ahead) % world for ahead in range(1, world)]
        return next((other for other in others if nodes[other] != nodes[rank]), others[0] if others else None)

    return [buddy(rank) for rank in range(world)]
