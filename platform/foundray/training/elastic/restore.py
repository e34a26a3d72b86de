"""Moves state between memories: a shard as arrays for another actor, and the whole state into a group's workers."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from foundray.training.collectives.group import Group
from foundray.training.elastic.replicas import Replicas
from foundray.training.protocol.states import Source
from foundray.training.step.blocks import BLOCK
from foundray.training.step.flat import part
from foundray.training.step.trainer import Trainer

if TYPE_CHECKING:
    from numpy.typing import NDArray


def as_arrays(tensors: dict[str, Tensor]) -> dict[str, NDArray[Any]]:
    """Convert to NumPy arrays, which travel between actors without an extra copy."""
    return {name: tensor.numpy() for name, tensor in tensors.items()}


def restore(trainer: Trainer, group: Group, source: Source, replicas: Replicas[dict[str, Tensor]]) -> int:
    """Load the state held by the workers of `group` into the trainer, which has joined it; return its step.

    Each holder broadcasts its shards in turn: every worker takes the weights, and the optimizer state of the blocks it owns in
    this group.
    """
    owned, device = trainer.own, trainer.device
    shapes = trainer.optimizer.state
    state = {name: torch.zeros(len(owned) * width, dtype=dtype, device=device) for name, (dtype, width) in shapes.items()}
    for holder, shard in source.shards:
        blocks = shard.stop - shard.start
        held = replicas.get(shard) if holder == group.rank else None
        received = partial(_received, group, holder, held, blocks, device)

        # Every worker takes the whole buffers.
        for name, buffer in trainer.whole.items():
            part(buffer, range(shard.start, shard.stop)).copy_(received(name, torch.float32, BLOCK))
        # Of the optimizer's state, take the overlap with this worker's blocks; every rank must join each broadcast.
        start, stop = max(owned.start, shard.start), min(owned.stop, shard.stop)
        for name, (dtype, width) in shapes.items():
            values = received(name, dtype, width)
            if start < stop:
                taken = values[(start - shard.start) * width : (stop - shard.start) * width]
                state[name][(start - owned.start) * width : (stop - owned.start) * width] = taken
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
