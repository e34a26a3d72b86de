"""What workers say to each other in a step: a few collectives over a process group that can be left and made anew."""

from __future__ import annotations

import contextlib
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

GATHERING = timedelta(seconds=15)
"""Longest that members wait for each other when they form a group."""
SILENCE = timedelta(minutes=10)
"""Longest that a collective waits for a member that neither answers nor hangs up."""


class Group:
    """The workers of one generation. Alone, every collective is nothing."""

    @staticmethod
    def gather_at(rendezvous: tuple[str, int] | None, rank: int, world: int, device: torch.device) -> Group:
        """Form a group with the others who were told the same address. Raises RuntimeError when one does not come."""
        if rendezvous is not None:
            host, port = rendezvous
            store = dist.TCPStore(host, port, world, is_master=rank == 0, timeout=GATHERING)
            backend = "nccl" if device.type == "cuda" else "gloo"
            dist.init_process_group(backend, store=store, rank=rank, world_size=world, timeout=GATHERING)
            group = Group(rank, world)
            group.sum(torch.zeros(1, device=device))  # connects all to all while the short limit holds
            dist.distributed_c10d._set_pg_timeout(SILENCE)
            return group
        return Group(rank, world)

    def leave(self) -> None:
        """Hang up: the others' collectives with this worker fail."""
        if dist.is_initialized():
            with contextlib.suppress(Exception):  # it may be broken in any way
                dist.destroy_process_group()

    def abort(self) -> None:
        """From another thread: make the collective under way fail."""
        if self.world > 1 and dist.is_initialized():
            with contextlib.suppress(Exception):
                dist.distributed_c10d._get_default_group().abort()

    def __init__(self, rank: int = 0, world: int = 1):
        self.rank, self.world = rank, world

    def reduce_to_owners(self, total: Tensor) -> Tensor:
        """Sum [world * n] over the workers; gives this worker's n elements."""
        mine = total.view(self.world, -1)[self.rank]
        if self.world == 1:
            return mine
        if total.is_cuda:
            dist.reduce_scatter_tensor(mine, total)
        else:
            dist.all_reduce(total)  # gloo's reduce-scatter takes five times as long as its all-reduce
        return mine

    def gather(self, whole: Tensor) -> None:
        """Fill [world * n] with every worker's own n elements, in rank order; each has put its own in place."""
        if self.world > 1:
            dist.all_gather_into_tensor(whole, whole.view(self.world, -1)[self.rank])

    def broadcast(self, values: Tensor, holder: int) -> Tensor:
        if self.world > 1:
            dist.broadcast(values, holder)
        return values

    def sum(self, values: Tensor) -> Tensor:
        if self.world > 1:
            dist.all_reduce(values)
        return values

    def share(self, value: Any) -> list[Any]:
        """Every worker's value, in rank order, for small objects now and then."""
        if self.world == 1:
            return [value]
        values: list[Any] = [None] * self.world
        dist.all_gather_object(values, value)
        return values
