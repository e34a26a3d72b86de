"""Workers started before Ray Train holds their slots: they import while data are prepared, or while Ray Train resizes."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress

import ray
from ray.exceptions import RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from foundray.cluster.connect import fits_on, whole_nodes
from foundray.data.stream.feeder import start_feeder
from foundray.host.devices import device_type
from foundray.spec import PoolConfig, ScaleConfig
from foundray.training.elastic.messages import WorkerHandle
from foundray.training.elastic.worker import Worker
from foundray.training.slots.board import start_board
from foundray.training.slots.slot import Slot


class Prestarted:
    """The board, the feeder, and workers in slots that Ray Train is certain to reserve, until there is work for them."""

    def __init__(self, scale: ScaleConfig):
        self.workers = [(slot, start_worker(slot)) for slot in certain_slots(scale.all_pools, whole_nodes())]
        self.enough = len(self.workers) >= scale.groups[0]
        """Whether these can form a first group."""
        self.feeder, self.board = start_feeder(), start_board()

    def take(self, slot: Slot) -> WorkerHandle | None:
        """Take a worker in this slot, if one is left."""
        for index, (held, _) in enumerate(self.workers):
            if held == slot:
                return self.workers.pop(index)[1]
        return None

    def close(self) -> None:
        """Kill the workers that were not taken."""
        for _, handle in self.workers:
            with suppress(RayError):
                ray.kill(handle)
        self.workers = []


def start_worker(slot: Slot) -> WorkerHandle:
    """Start a worker in its own process, which imports what it needs and waits for work."""
    affinity = NodeAffinitySchedulingStrategy(slot.node, soft=False)
    # The slot's GPUs are reserved by Ray Train's process; this worker sees the same ones.
    environment = {"CUDA_VISIBLE_DEVICES": ",".join(slot.gpus), "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0"}
    actor = ray.remote(Worker).options(
        num_cpus=0,
        max_concurrency=32,
        scheduling_strategy=affinity,
        runtime_env={"env_vars": environment} if slot.gpus else None,
    )
    handle: WorkerHandle = actor.remote(device_type(bool(slot.gpus)))
    return handle


def slots_on_new_nodes(
    pools: Mapping[str, PoolConfig], workers: Mapping[str, int], nodes: Mapping[str, Mapping[str, float]]
) -> list[Slot]:
    """Return slots that Ray Train will reserve on nodes that have just joined, with their resources.

    `workers` counts each pool's workers on other nodes.
    """
    wanted = {name: (0, max(0, pool.workers[1] - workers.get(name, 0))) for name, pool in pools.items()}
    return certain_slots({name: pool.model_copy(update={"workers": wanted[name]}) for name, pool in pools.items()}, nodes)


def certain_slots(pools: Mapping[str, PoolConfig], free: Mapping[str, Mapping[str, float]]) -> list[Slot]:
    """Return slots that Ray Train will reserve if each node has `free` resources, for those pools for which that is certain.

    It is certain if every slot that fits is wanted, or if there is one node; not with GPUs, whose assignment is not known yet,
    nor if labels decide.
    """
    slots, free_now = [], {node: dict(resources) for node, resources in free.items()}
    for name, pool in pools.items():
        # Count the workers of this pool that fit on each node.
        fewest, most = pool.workers
        room = {node: count for node, resources in free_now.items() if (count := fits_on(pool.resources, resources))}
        certain = fewest <= sum(room.values()) and (len(room) == 1 or sum(room.values()) <= most)
        if certain and not (pool.resources.get("GPU") or pool.labels or pool.accelerator):
            slots += [Slot(node, (), name) for node, count in room.items() for _ in range(min(count, most))]
        for node, count in room.items():  # in either case they are not available to the next pool
            for kind, amount in pool.resources.items():
                free_now[node][kind] -= min(count, most) * amount
    return slots
