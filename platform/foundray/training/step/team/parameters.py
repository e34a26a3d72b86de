"""A model's parameters on one member of a team: its part of every unit in one buffer, and the units that it gathers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor

from foundray.model.model import Model
from foundray.model.units import units
from foundray.training.collectives.group import Group
from foundray.training.step.blocks import BLOCK, Blocks, overlaps
from foundray.training.step.flat import Layout, part
from foundray.training.step.team.holding import holding
from foundray.training.step.team.unit import GatheredUnit


class TeamParameters:
    """The weights of `model`, whose parts the members of `team` hold."""

    def __init__(self, model: Model, layout: Layout, team: Group, device: torch.device, teams: int):
        self.layout, self.team = layout, team
        self.held = holding(layout, units(model), team.world, team.rank)
        self.blocks = Blocks(tuple(run for unit in self.held for run in unit.held.ranges))
        self.buffer = torch.zeros((len(self.blocks) + teams - 1) * BLOCK, device=device)
        """[(held blocks + teams - 1) * 256] fp32: the master weights of the blocks that this worker holds, unit by unit, and
        the padding of equal shards."""
        self.units = [GatheredUnit(held, model, team, device) for held in self.held]

    def part(self, unit: int, buffer: Tensor) -> Tensor:
        """A unit's part of a buffer that is laid out as `self.buffer` is."""
        held = self.held[unit]
        return part(buffer, range(held.first, held.first + len(held.held)))

    def gather(self, unit: int, following: int | None = None) -> None:
        """Gather a unit, and begin with the one that is used after it."""
        self.units[unit].gather(self.part(unit, self.buffer))
        if following is not None:
            self.units[following].begin(self.part(following, self.buffer))

    @contextmanager
    def gathered(self, which: Sequence[int]) -> Iterator[None]:
        """Units are there inside, and freed after."""
        for unit, following in zip(which, [*which[1:], None], strict=False):
            self.gather(unit, following)
        yield
        for unit in which:
            self.units[unit].free()

    def put(self, name: str, values: Tensor) -> None:
        """Set this worker's part of a parameter from the whole of it, or from its first rows."""
        entry, flat = next(entry for entry in self.layout.entries if entry.name == name), values.reshape(-1)
        for there, here, count in overlaps([(entry.first, entry.first + entry.blocks)], self.blocks):
            some = flat[there * BLOCK : (there + count) * BLOCK]
            self.buffer[here * BLOCK : here * BLOCK + len(some)] = some

    def weights(self) -> Iterator[tuple[str, Tensor]]:
        """The whole weights by name, in name order, on the CPU, one unit in memory at a time. Every member iterates."""
        places = {entry.name: (unit, entry, offset) for unit, held in enumerate(self.held) for entry, offset in held.places}
        current: int | None = None
        for name in sorted(places):
            unit, entry, offset = places[name]
            if unit != current:
                if current is not None:
                    self.units[current].free()
                self.gather(unit)
                current = unit
            start = offset * BLOCK
            yield (
                name,
                self.units[unit].whole[start : start + torch.Size(entry.shape).numel()].view(entry.shape).to("cpu", copy=True),
            )
        if current is not None:
            self.units[current].free()
