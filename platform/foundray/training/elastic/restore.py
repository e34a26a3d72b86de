"""Moves state between memories: a shard as arrays for another actor, and the whole state into a group's workers."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from foundray.model.units import units
from foundray.training.collectives.group import Group
from foundray.training.elastic.replicas import Replicas
from foundray.training.protocol.states import Source
from foundray.training.step.blocks import BLOCK, Blocks, overlaps
from foundray.training.step.team.holding import ordered
from foundray.training.step.trainer import Trainer

if TYPE_CHECKING:
    from numpy.typing import NDArray


def as_arrays(tensors: dict[str, Tensor]) -> dict[str, NDArray[Any]]:
    """Convert to NumPy arrays, which travel between actors without an extra copy."""
    return {name: tensor.numpy() for name, tensor in tensors.items()}


def restore(trainer: Trainer, group: Group, source: Source, replicas: Replicas[dict[str, Tensor]]) -> int:
    """Load the state held by the workers of `group` into the trainer, which has joined it; return its step.

    Each holder broadcasts its shards in turn: every worker takes the weights of the blocks that it holds in this group, and the
    optimizer state of those that it owns.
    """
    device, shapes = trainer.device, trainer.optimizer.state
    state = {
        name: torch.zeros(len(trainer.blocks) * width, dtype=dtype, device=device) for name, (dtype, width) in shapes.items()
    }
    order = ordered(trainer.layout, units(trainer.model), source.shards[0][1].team)
    for holder, shard in source.shards:
        blocks = order.part(shard.start, shard.stop)
        ranges = [(run.start, run.stop) for run in blocks.ranges]
        held = replicas.get(shard) if holder == group.rank else None
        received = partial(_received, group, holder, held, len(blocks), device)
        # Every rank joins each broadcast, and takes what it needs of it.
        for name, buffer in trainer.whole.items():
            _take(received(name, torch.float32, BLOCK), BLOCK, ranges, trainer.held, buffer)
        for name, (dtype, width) in shapes.items():
            _take(received(name, dtype, width), width, ranges, trainer.blocks, state[name])
    trainer.optimizer.load(state)
    return source.step


def _take(values: Tensor, width: int, ranges: list[tuple[int, int]], wanted: Blocks, into: Tensor) -> None:
    """Copy what is wanted of the blocks of `ranges` to its place in `into`; a block has `width` values."""
    for there, here, count in overlaps(ranges, wanted):
        into[here * width : (here + count) * width] = values[there * width : (there + count) * width]


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
