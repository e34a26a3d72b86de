"""A run's processes started ahead, on a Ray that a command has for itself: they import while data are prepared."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from typing import Any

import ray
from ray.exceptions import RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from foundray.cluster.connect import fits_on, whole_nodes
from foundray.data.stream.feeder import start_feeder
from foundray.host.devices import device_type
from foundray.spec import PoolConfig, ScaleConfig
from foundray.training.elastic.worker import Worker
from foundray.training.slots.board import Slot, start_board


class Prestarted:
    """The board, the feeder, and members in places that Ray Train is certain to find, until there is work for them."""

    def __init__(self, scale: ScaleConfig):
        self.members = [(place, start_worker(place)) for place in certain_slots(scale.all_pools, whole_nodes())]
        self.enough = len(self.members) >= scale.world[0]
        """Whether a first group can be formed of these."""
        self.feeder, self.board = start_feeder(), start_board()

    def take(self, place: Slot) -> Any | None:
        """A member in this place, if one is left."""
        for index, (of, _) in enumerate(self.members):
            if of == place:
                return self.members.pop(index)[1]
        return None

    def close(self) -> None:
        """Let go of those that nobody took."""
        for _, handle in self.members:
            with suppress(RayError):
                ray.kill(handle)
        self.members = []


def start_worker(place: Slot) -> Any:
    """A member in a process of its own, which imports what it needs and waits for its work."""
    there = NodeAffinitySchedulingStrategy(place.node, soft=False)
    # The place's GPUs are reserved by Ray Train's worker; its member sees the same ones.
    environment = {"CUDA_VISIBLE_DEVICES": ",".join(place.gpus), "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0"}
    return (
        ray.remote(Worker)
        .options(
            num_cpus=0,
            max_concurrency=32,
            scheduling_strategy=there,
            runtime_env={"env_vars": environment} if place.gpus else None,
        )
        .remote(device_type(bool(place.gpus)))
    )


def certain_slots(pools: Mapping[str, PoolConfig], free: Mapping[str, Mapping[str, float]]) -> list[Slot]:
    """Places that Ray Train will find where each node has so much free, of those pools for which that is certain.

    That is so where all that there is room for are wanted, or on one node; not with GPUs, of which nobody knows yet who gets
    which, and not where labels decide.
    """
    found, left = [], {node: dict(resources) for node, resources in free.items()}
    for name, pool in pools.items():
        fewest, most = pool.workers
        room = {node: count for node, resources in left.items() if (count := fits_on(pool.resources, resources))}
        certain = fewest <= sum(room.values()) and (len(room) == 1 or sum(room.values()) <= most)
        if certain and not (pool.resources.get("GPU") or pool.labels or pool.accelerator):
            found += [Slot(node, (), name) for node, count in room.items() for _ in range(min(count, most))]
        for node, count in room.items():  # whoever it is that takes them, they are not for the next pool
            for kind, amount in pool.resources.items():
                left[node][kind] -= min(count, most) * amount
    return found
