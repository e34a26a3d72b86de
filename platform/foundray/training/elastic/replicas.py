"""State shards in a worker's memory, and a complete state assembled from those of a group."""

from __future__ import annotations

import threading
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from foundray.runs.lineage import Lineage, usable
from foundray.training.collectives.group import Group
from foundray.training.elastic.recovery import Source, StateShard
from foundray.training.step.blocks import BLOCK
from foundray.training.step.trainer import Trainer

if TYPE_CHECKING:
    from numpy.typing import NDArray

STATES_KEPT = 3
"""(generation, step) pairs whose shards are kept: the newest may be incomplete, and one may be a group's last."""


class Replicas:
    """The state shards that a worker holds: its own, and the replicas of others."""

    def __init__(self, roll_back: int | None = None) -> None:
        self.roll_back = roll_back
        """The newest state whose step is a multiple of this is kept as well, for roll-backs."""
        self.lock = threading.Lock()
        self.held: dict[StateShard, dict[str, Tensor]] = {}
        self.own: StateShard | None = None

    def keep(self, shard: StateShard, tensors: dict[str, Tensor], own: bool = False) -> None:
        """Add a shard, and drop the oldest states."""
        with self.lock:
            self.held[shard] = tensors
            if own:
                self.own = shard
            # In order of arrival; beyond the newest, only the state to roll back to is kept.
            states = list(dict.fromkeys((shard.generation, shard.step) for shard in self.held))
            roll_back_states = [state for state in states if self.roll_back and state[1] % self.roll_back == 0][-1:]
            for old in [shard for shard in self.held if (shard.generation, shard.step) in states[:-STATES_KEPT]]:
                if (old.generation, old.step) not in roll_back_states:
                    del self.held[old]

    def drop_undone(self, lineage: Lineage) -> None:
        """Drop all states that these cuts have undone."""
        with self.lock:
            self.held = {s: tensors for s, tensors in self.held.items() if usable(s.step, s.made_under, lineage)}

    def shards(self) -> list[StateShard]:
        with self.lock:
            return list(self.held)

    def get(self, shard: StateShard) -> dict[str, Tensor]:
        with self.lock:
            return self.held[shard]


def as_arrays(tensors: dict[str, Tensor]) -> dict[str, NDArray[Any]]:
    """Convert to NumPy arrays, which travel between actors without an extra copy."""
    return {name: tensor.numpy() for name, tensor in tensors.items()}


def restore(trainer: Trainer, group: Group, source: Source, replicas: Replicas) -> int:
    """Load the state held by the workers of `group` into the trainer, which has joined it; return its step.

    Each holder broadcasts its shards in turn: every worker takes the weights, and the optimizer state of the blocks it owns in
    this group.
    """
    owned, device = trainer.blocks, trainer.device
    shapes = trainer.optimizer.state
    state = {name: torch.zeros(len(owned) * width, dtype=dtype, device=device) for name, (dtype, width) in shapes.items()}
    for holder, shard in source.shards:
        blocks = shard.stop - shard.start
        held = replicas.get(shard) if holder == group.rank else None
        received = partial(_received, group, holder, held, blocks, device)

        # Every worker takes the whole buffers.
        for name, buffer in trainer.whole.items():
            trainer.flat.part(buffer, range(shard.start, shard.stop)).copy_(received(name, torch.float32, BLOCK))
        # Of the optimizer's state, take the overlap with this worker's blocks; every rank must join each broadcast.
        start, stop = max(owned.start, shard.start), min(owned.stop, shard.stop)
        for name, (dtype, width) in shapes.items():
            values = received(name, dtype, width)
            if start < stop:
                part = values[(start - shard.start) * width : (stop - shard.start) * width]
                state[name][(start - owned.start) * width : (stop - owned.start) * width] = part
    trainer.optimizer.load(state)
    return source.step


def _received(
    group: Group,
    holder: int,
    held: dict[str, Tensor] | None,
    blocks: int,
    device: torch.device,
    name: str,
    dtype: torch.dtype,
    width: int,
) -> Tensor:
    """A tensor of a shard, on every worker: its holder, which has `held`, broadcasts it."""
    empty = torch.empty(blocks * width, dtype=dtype, device=device)
    return group.broadcast(held[name].to(device) if held else empty, holder)
