"""Slots for workers, which Ray Train reserves, and replaces when nodes come and go."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import RayError
from ray.util.placement_group import PlacementGroup

from foundray.cluster.causes import cause_of
from foundray.cluster.connect import beside_caller
from foundray.cluster.local_ray import is_alone
from foundray.runs.run import Run, event
from foundray.spec import PoolConfig, Spec
from foundray.training.slots.board import BoardHandle
from foundray.training.slots.slot import Slot

RESIZE_SECONDS = 5.0
"""Interval between two checks whether the cluster has room for more workers."""
CLOSE_SECONDS = 5.0
ATTEMPTS = 4
"""Consecutive times that Ray Train may end without holding a slot before a run without workers gives up."""
DELAY_SECONDS = 60.0
"""Limit for Ray Train's start to wait for the first group, if that needs no slot to begin."""
CALM_SECONDS = 10.0
"""On a command's own Ray nobody can take its slots, so Ray Train starts this long after the first steps, which would share
their processors with its start; a shorter run does without.
"""
MAX_PAUSE_SECONDS = 30.0
"""Longest pause between two attempts; the first is one second, and each is twice the one before."""


class Slots:
    """Ray Train beside the driver: for each pool, an actor runs its trainer, so that it can be ended at any time.

    On a command's own Ray nobody competes for slots: Ray Train starts once the first group computes, so that it does not slow
    down that group's start, and makes no requests.
    """

    def __init__(self, pools: list[PoolTrainer], alone: bool = False):
        """`alone` says that this is a command's own Ray."""
        self.pools, self.alone = pools, alone

    @classmethod
    def reserve(
        cls, run: Run, spec: Spec, workers: dict[str, tuple[int, int]], board: BoardHandle, stale: list[str], delayed: bool
    ) -> Slots:
        """Start Ray Train for each of the spec's pools, which gets a least and a largest number of `workers`.

        `stale` names the requests of earlier commands, which may have died: Ray would honour them for minutes. `delayed` says
        that the first group needs no slot to begin.
        """
        alone = is_alone()
        # On its own Ray, nobody waits for Ray Train at the end, and it may still write when the run folder is final.
        folder = str(Path(_session_folder(), "train")) if alone else (run.folder / ".ray").url
        pools = spec.scale.all_pools

        def begin(name: str) -> tuple[Any, Any]:
            actor = ray.remote(_Keeper).options(num_cpus=0, scheduling_strategy=beside_caller()).remote()
            return actor, actor.hold.remote(board, name, pools[name], *workers[name], folder, alone)

        start_at = time.monotonic() + (DELAY_SECONDS if delayed else 0.0)
        slots = cls([PoolTrainer(name, begin, start_at) for name, (_, most) in workers.items() if most], alone)
        if not alone:
            cancel_requests(stale)
        return slots

    def request_events(self) -> list[dict[str, Any]]:
        """Events for the requests that the driver knows. On a shared cluster the trainers report theirs."""
        return [event("places", pool=pool_trainer.pool, request="") for pool_trainer in self.pools] if self.alone else []

    def note_requests(self, records: list[dict[str, Any]]) -> None:
        """Take the trainers' request names from the board's records."""
        names = {record["pool"]: record["request"] for record in records if record.get("event") == "places"}
        for pool_trainer in self.pools:
            pool_trainer.request = names.get(pool_trainer.pool, pool_trainer.request)

    def poll(self, held: list[Slot], computing: bool) -> list[tuple[str, str]]:
        """Restart trainers that ended, as they do if a node goes while they start on it; `held` lists the slots held now.

        `computing` says whether a group computes, which it can for a while without slots. Returns (pool, reason) of the
        trainers that ended since the last call.
        """
        pools = {slot.pool for slot in held}
        for pool_trainer in self.pools:
            pool_trainer.failures_without_group = 0 if computing else pool_trainer.failures_without_group
            if computing and not pool_trainer.started:
                pool_trainer.retry_at = min(pool_trainer.retry_at, time.monotonic() + CALM_SECONDS)
        lost = [
            (pool_trainer.pool, reason)
            for pool_trainer in self.pools
            if (reason := pool_trainer.poll(pool_trainer.pool in pools))
        ]
        return lost

    def problem(self) -> str | None:
        """Why Ray Train keeps ending, if it does so for every pool while no group computes."""
        if any(pool_trainer.failures_without_group < ATTEMPTS for pool_trainer in self.pools):
            return None
        return "; ".join(dict.fromkeys(pool_trainer.reason for pool_trainer in self.pools)) or None

    def close(self, requests: list[str]) -> None:
        """Free the slots, after the board has asked their holders to exit. Nothing that fails here is raised."""
        calls = [pool_trainer.call for pool_trainer in self.pools if pool_trainer.call is not None]
        with suppress(RayError):
            if calls and not self.alone:  # on its own Ray nothing of Ray Train's is needed later, so it need not end by itself
                ray.wait(calls, num_returns=len(calls), timeout=CLOSE_SECONDS)
            for pool_trainer in self.pools:
                if pool_trainer.started:
                    ray.kill(pool_trainer.actor)
        if not self.alone:
            return cancel_requests(requests)
        with suppress(Exception):  # the run's end, its message and its records do not depend on this
            if calls:  # their actors are dead then, and make no more reservations
                ray.wait(calls, num_returns=len(calls), timeout=CLOSE_SECONDS)
            _remove_reservations()  # this process may start another run


class PoolTrainer:
    """One pool's trainer, which is restarted whenever it ends."""

    def __init__(self, pool: str, begin: Callable[[str], tuple[Any, Any]], start_at: float = 0.0):
        """`begin` returns an actor, and its call that lasts as long as the trainer; it is first called at `start_at`."""
        self.pool, self.begin = pool, begin
        self.started = start_at <= time.monotonic()
        self.actor: Any = None
        self.call: Any = None
        if self.started:
            self.actor, self.call = begin(pool)
        self.failures = 0
        """Consecutive times it ended without holding a slot."""
        self.failures_without_group = 0
        """The number of these since a group last computed."""
        self.request = ""
        """Name of its request to Ray's autoscaling coordinator, once known."""
        self.reason = ""
        self.retry_at = start_at
        """Time at which it starts, or restarts after it has ended."""

    def poll(self, held: bool) -> str:
        """Restart it if it is time to; `held` says whether it holds slots. Returns why it ended, if it just did."""
        if self.call is None:
            if time.monotonic() >= self.retry_at:
                if self.request:  # of an actor that died before withdrawing it: Ray would honour it for minutes
                    cancel_requests([self.request])
                    self.request = ""
                self.actor, self.call = self.begin(self.pool)
                self.started = True
            return ""
        if not ray.wait([self.call], timeout=0)[0]:
            if held:
                self.failures = self.failures_without_group = 0
            return ""
        # It has ended: note why, and restart it after a pause that grows with consecutive failures.
        try:
            self.reason = str(ray.get(self.call))
        except RayError as error:
            self.reason = cause_of(error)
        with suppress(RayError):
            ray.kill(self.actor)
        self.call = None
        self.failures += 1
        self.failures_without_group += 1
        self.retry_at = time.monotonic() + min(MAX_PAUSE_SECONDS, 2.0 ** (self.failures - 1))
        return self.reason


def cancel_requests(names: list[str]) -> None:
    """Withdraw Ray Train's requests to Ray's autoscaling coordinator. Unknown names are ignored."""
    # There is no public API: Ray Train withdraws its request itself, unless it is killed.
    from ray.data._internal.cluster_autoscaler.default_autoscaling_coordinator import get_or_create_autoscaling_coordinator

    with suppress(RayError, ValueError):
        coordinator = get_or_create_autoscaling_coordinator()  # Ray Train needs it, and it is slow to start
        if names:
            ray.wait([coordinator.cancel_request.remote(name) for name in names], num_returns=len(names), timeout=10)


def _remove_reservations() -> None:
    """Remove all placement groups, which are Ray Train's: Ray keeps those of a dead actor for as long as its job lives."""
    from ray._raylet import PlacementGroupID  # there is no public way from the id in the table to the group

    for found in ray.util.placement_group_table().values():
        with suppress(RayError):
            ray.util.remove_placement_group(PlacementGroup(PlacementGroupID.from_hex(found["placement_group_id"])))


def _session_folder() -> str:
    from ray._private.worker import _global_node  # there is no public API

    return str(_global_node.get_session_dir_path())


class _Keeper:
    def hold(self, board: BoardHandle, name: str, pool: PoolConfig, fewest: int, most: int, folder: str, alone: bool) -> str:
        # Ray Train counts a lost node for a while: it should not wait a minute for a slot there.
        os.environ.setdefault("RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S", "10")
        # On one node no slot is lost, and each check takes time from the workers.
        os.environ.setdefault("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "5" if alone else "0.5")
        # The coordinator looks after draining nodes, so Ray Train's watcher would be a needless process.
        os.environ.setdefault("RAY_TRAIN_ENABLE_PREEMPTION_WATCHER", "0")
        from ray.train import FailureConfig, RunConfig, ScalingConfig
        from ray.train.v2._internal.callbacks.datasets import DatasetsCallback
        from ray.train.v2._internal.callbacks.placement_group_callback import PlacementGroupCleanerCallback
        from ray.train.v2._internal.execution.controller import TrainController
        from ray.train.v2.api.data_parallel_trainer import DataParallelTrainer

        from foundray.training.slots.barrier import without_barrier
        from foundray.training.slots.board import hold_slot
        from foundray.training.slots.scaling import OneMachine, StayingNodes

        # There are no data sets, so the process that manages them is left out. On its own Ray, the driver cleans the slots up
        # if another run may follow.
        excluded = (DatasetsCallback, PlacementGroupCleanerCallback) if alone else (DatasetsCallback,)

        class Trainer(DataParallelTrainer):
            def _create_default_callbacks(self) -> list[Any]:
                return [one for one in super()._create_default_callbacks() if not isinstance(one, excluded)]

            def _initialize_and_run_controller(self, **arguments: Any) -> Any:
                # There is no public API to choose a policy, or to run the controller here instead of in another process.
                if alone:
                    arguments["scaling_policy"] = OneMachine(self.scaling_config)
                elif self.scaling_config.elasticity_enabled:  # one that resizes its group keeps a process of its own
                    arguments["scaling_policy"] = StayingNodes(self.scaling_config)
                    return super()._initialize_and_run_controller(**arguments)
                controller = TrainController(**arguments)
                asyncio.run(controller.run())
                return controller.get_result()

        # On its own Ray all slots come and go with one node, so one process holds them all. (GPUs are assigned one by one.)
        use_gpu = pool.resources.get("GPU", 0) > 0
        slots = most if alone and not use_gpu else 1
        trainer = Trainer(
            hold_slot,
            train_loop_config={"board": board, "pool": name, "slots": slots},
            scaling_config=ScalingConfig(
                num_workers=most // slots if fewest == most or alone else (max(1, fewest), most),
                elastic_resize_monitor_interval_s=RESIZE_SECONDS,
                use_gpu=use_gpu,
                resources_per_worker={resource: amount * slots for resource, amount in pool.resources.items()},
                accelerator_type=pool.accelerator,
                label_selector=pool.labels or None,
            ),
            run_config=RunConfig(
                name=f"ray-{time.time_ns()}",  # Ray Train keeps its own state by name; only ours counts
                storage_path=folder,
                failure_config=FailureConfig(max_failures=-1),
            ),
        )
        request = f"train-{trainer.train_run_context.run_id}"
        if not alone:
            board.append.remote([event("places", pool=name, request=request)])
        try:
            with without_barrier():
                trainer.fit()
        finally:
            if not alone:
                cancel_requests([request])
        return "its workers ended"
