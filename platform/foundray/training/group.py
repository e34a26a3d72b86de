"""What workers say to each other in a step: four collectives over the process group that Ray Train made."""

from __future__ import annotations

from typing import Any

import torch.distributed as dist
from torch import Tensor


class Group:
    """The workers of one generation. Alone, every collective is nothing."""

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
