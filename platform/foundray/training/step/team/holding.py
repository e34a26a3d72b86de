"""Which blocks a member of a team holds: an even part of every unit. Nothing here computes or communicates."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from foundray.model.units import Unit
from foundray.training.step.blocks import Blocks
from foundray.training.step.flat import Entry, Layout

PIECE = 2**24
"""Elements of a unit's gradient that a member sends at once; as many arrive."""


@dataclass(frozen=True)
class HeldUnit:
    """A unit's blocks, in the order of the flat space, and the part of them that one member holds."""

    name: str
    entries: tuple[Entry, ...]
    size: int
    """Members of the team."""
    member: int
    first: int
    """Position of its first held block among all that the member holds."""

    @cached_property
    def blocks(self) -> Blocks:
        """All its blocks."""
        return Blocks(tuple(range(entry.first, entry.first + entry.blocks) for entry in self.entries))

    @property
    def share(self) -> int:
        """Most blocks that a member holds; the last members may hold fewer."""
        return -(-len(self.blocks) // self.size)

    @cached_property
    def held(self) -> Blocks:
        return self.blocks.part(self.member * self.share, (self.member + 1) * self.share)

    @cached_property
    def places(self) -> tuple[tuple[Entry, int], ...]:
        """Its parameters, each with its first block within the unit."""
        found, before = [], 0
        for entry in self.entries:
            found.append((entry, before))
            before += entry.blocks
        return tuple(found)


def ordered(layout: Layout, units: Sequence[Unit], size: int) -> Blocks:
    """All blocks in the order in which teams of `size` number them: one member's after another's.

    So a worker's shard of the state is a range of numbers. A worker that holds the whole model numbers them as the flat space
    does.
    """
    if size == 1:
        return Blocks((range(layout.blocks),))
    members = [holding(layout, units, size, member) for member in range(size)]
    return Blocks(tuple(run for held in members for unit in held for run in unit.held.ranges))


def holding(layout: Layout, units: Sequence[Unit], size: int, member: int) -> list[HeldUnit]:
    """What a member of a team of `size` holds of each unit, in the order of use."""
    of = {entry.name: entry for entry in layout.entries}
    found, first = [], 0
    for unit in units:
        entries = tuple(sorted((of[name] for name in unit.parameters), key=lambda entry: entry.first))
        found.append(HeldUnit(unit.name, entries, size, member, first))
        first += len(found[-1].held)
    return found
