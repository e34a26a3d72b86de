"""Places for workers, which Ray Train reserves, and finds anew when nodes come and go."""

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

from foundray.cluster.causes import cause_of
from foundray.cluster.connect import beside_caller
from foundray.cluster.local_ray import is_alone
from foundray.runs.run import Run, event
from foundray.spec import PoolConfig, Spec
from foundray.training.slots.board import Slot

RESIZE_SECONDS = 5.0
"""Between two looks at whether the cluster has room for more workers."""
CLOSE_SECONDS = 5.0
ATTEMPTS = 4
"""Times in a row that Ray Train may end without holding a place, before a run without workers gives up."""
LATER_SECONDS = 60.0
"""Longest that Ray Train waits for the first group, where that needs no place held to begin."""
MOST_PAUSE_SECONDS = 30.0
"""Between two attempts; the first pause is of one second, and each is twice as long as the one before."""


class Slots:
    """Ray Train at work, beside the driver: for each pool an actor runs its trainer, so that it can be ended at any time.

    On a Ray of this command alone nobody competes for places: Ray Train begins to hold them once the first group computes, so
    that it takes no time from what that needs, and asks no coordinator.
    """

    def __init__(self, run: Run, spec: Spec, workers: dict[str, tuple[int, int]], board: Any, stale: list[str], later: bool):
        """`stale` names the requests of commands before, which may have died: Ray would honour them for minutes.

        `later` says that the first group needs no place held to begin.
        """
        self.alone = alone = is_alone()
        # What is alone is not waited for at the end, and may still write when the run's folder is settled.
        folder = str(Path(_session_folder(), "train")) if alone else (run.folder / ".ray").url
        pools = spec.scale.all_pools

        def begin(name: str) -> tuple[Any, Any]:
            keeper = ray.remote(_Keeper).options(num_cpus=0, scheduling_strategy=beside_caller()).remote()
            return keeper, keeper.hold.remote(board, name, pools[name], *workers[name], folder, alone)

        at = time.monotonic() + (LATER_SECONDS if later else 0.0)
        self.pools = [Asked(name, begin, at) for name, (_, most) in workers.items() if most]
        if not alone:
            cancel_requests(stale)

    def asked(self) -> list[dict[str, Any]]:
        """For the record: what the driver knows of the requests. Elsewhere those who make them say it."""
        return [event("places", pool=asked.pool, request="") for asked in self.pools] if self.alone else []

    def take_note(self, records: list[dict[str, Any]]) -> None:
        """What the board brought: a trainer tells there by which name it asks."""
        told = {record["pool"]: record["request"] for record in records if record.get("event") == "places"}
        for asked in self.pools:
            asked.request = told.get(asked.pool, asked.request)

    def tend(self, held: list[Slot], computing: bool) -> list[tuple[str, str]]:
        """Ask again where Ray Train gave up, as it does if a node goes while it starts on it; `held` is what it holds now.

        `computing` says whether a group does, which can be without places for a while. Gives (pool, reason) of those that
        Ray Train has given up since the last call.
        """
        pools = {place.pool for place in held}
        for asked in self.pools:
            asked.in_vain = 0 if computing else asked.in_vain
            if computing and not asked.begun:
                asked.again = 0.0
        lost = [(asked.pool, reason) for asked in self.pools if (reason := asked.tend(asked.pool in pools))]
        return lost

    def problem(self) -> str | None:
        """Why Ray Train gives up again and again, if it does so for every pool while nobody computes."""
        if any(asked.in_vain < ATTEMPTS for asked in self.pools):
            return None
        return "; ".join(dict.fromkeys(asked.reason for asked in self.pools)) or None

    def close(self, requests: list[str]) -> None:
        """Free the places, whose holders the board has told to go."""
        with suppress(RayError):
            calls = [asked.call for asked in self.pools if asked.call is not None]
            if calls and not self.alone:  # of what is alone all ends with its process
                ray.wait(calls, num_returns=len(calls), timeout=CLOSE_SECONDS)
            for asked in self.pools:
                if asked.begun:
                    ray.kill(asked.keeper)
        if not self.alone:
            cancel_requests(requests)


class Asked:
    """One pool's trainer, begun again whenever it ends."""

    def __init__(self, pool: str, begin: Callable[[str], tuple[Any, Any]], at: float = 0.0):
        """`begin` gives an actor, and its call that lasts as long as the trainer does; `at` is when it is called first."""
        self.pool, self.begin = pool, begin
        self.begun = at <= time.monotonic()
        self.keeper: Any = None
        self.call: Any = None
        if self.begun:
            self.keeper, self.call = begin(pool)
        self.failures = 0
        """Times in a row that it ended without a place being held."""
        self.in_vain = 0
        """Of these, those since a group last computed."""
        self.request = ""
        """By which name it asks Ray's autoscaling coordinator, once that is known."""
        self.reason = ""
        self.again = at
        """When it is begun, or again where it has ended."""

    def tend(self, held: bool) -> str:
        """Begin again if it is time for that; `held` says whether it holds places. Gives why it ended, if it just did."""
        if self.call is None:
            if time.monotonic() >= self.again:
                if self.request:  # of a keeper that died, who did not withdraw it: Ray would honour it for minutes
                    cancel_requests([self.request])
                    self.request = ""
                self.keeper, self.call = self.begin(self.pool)
                self.begun = True
            return ""
        if not ray.wait([self.call], timeout=0)[0]:
            if held:
                self.failures = self.in_vain = 0
            return ""
        try:
            self.reason = str(ray.get(self.call))
        except RayError as error:
            self.reason = cause_of(error)
        with suppress(RayError):
            ray.kill(self.keeper)
        self.call = None
        self.failures += 1
        self.in_vain += 1
        self.again = time.monotonic() + min(MOST_PAUSE_SECONDS, 2.0 ** (self.failures - 1))
        return self.reason


def cancel_requests(names: list[str]) -> None:
    """Withdraw what Ray Train has asked Ray's autoscaling coordinator for. One that is not there is no matter."""
    # There is no public call: Ray Train withdraws its request itself, unless it is killed.
    from ray.data._internal.cluster_autoscaler.default_autoscaling_coordinator import get_or_create_autoscaling_coordinator

    with suppress(RayError, ValueError):
        coordinator = get_or_create_autoscaling_coordinator()  # which Ray Train will need, and which takes a while to start
        if names:
            ray.wait([coordinator.cancel_request.remote(name) for name in names], num_returns=len(names), timeout=10)


def _session_folder() -> str:
    from ray._private.worker import _global_node  # there is no public call

    return str(_global_node.get_session_dir_path())


class _Keeper:
    def hold(self, board: Any, name: str, pool: PoolConfig, fewest: int, most: int, folder: str, alone: bool) -> str:
        # Ray Train counts a lost node for a while yet: it should not wait a minute for a place there.
        os.environ.setdefault("RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S", "10")
        # On one node no place is lost, and each look takes time from the workers.
        os.environ.setdefault("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "5" if alone else "0.5")
        # Who is told to go is looked after by the crew: nobody asks Ray Train's watcher, which is one more process.
        os.environ.setdefault("RAY_TRAIN_ENABLE_PREEMPTION_WATCHER", "0")
        from ray.train import FailureConfig, RunConfig, ScalingConfig
        from ray.train.v2._internal.callbacks.datasets import DatasetsCallback
        from ray.train.v2._internal.callbacks.placement_group_callback import PlacementGroupCleanerCallback
        from ray.train.v2._internal.execution.controller import TrainController
        from ray.train.v2.api.data_parallel_trainer import DataParallelTrainer

        from foundray.training.slots.board import hold_slot
        from foundray.training.slots.scaling import OneMachine, StayingNodes

        # It is given no data sets: the process that would manage them is left out. On a Ray of one command, what this process
        # holds ends with it: nobody has to look after that.
        left_out = (DatasetsCallback, PlacementGroupCleanerCallback) if alone else (DatasetsCallback,)

        class Trainer(DataParallelTrainer):
            def _create_default_callbacks(self) -> list[Any]:
                return [one for one in super()._create_default_callbacks() if not isinstance(one, left_out)]

            def _initialize_and_run_controller(self, **arguments: Any) -> Any:
                if alone:  # here, and not in one more process
                    controller = TrainController(**arguments | {"scaling_policy": OneMachine(self.scaling_config)})
                    asyncio.run(controller.run())
                    return controller.get_result()
                if self.scaling_config.elasticity_enabled:  # there is no public way to choose a policy
                    arguments["scaling_policy"] = StayingNodes(self.scaling_config)
                return super()._initialize_and_run_controller(**arguments)

        trainer = Trainer(
            hold_slot,
            train_loop_config={"board": board, "pool": name},
            scaling_config=ScalingConfig(
                num_workers=most if fewest == most or alone else (max(1, fewest), most),
                elastic_resize_monitor_interval_s=RESIZE_SECONDS,
                use_gpu=pool.resources.get("GPU", 0) > 0,
                resources_per_worker=pool.resources,
                accelerator_type=pool.accelerator,
                label_selector=pool.labels or None,
            ),
            run_config=RunConfig(
                name=f"ray-{time.time_ns()}",  # Ray Train keeps state of its own by name; ours is the one that counts
                storage_path=folder,
                failure_config=FailureConfig(max_failures=-1),
            ),
        )
        request = f"train-{trainer.train_run_context.run_id}"
        if not alone:
            board.append.remote([event("places", pool=name, request=request)])
        try:
            trainer.fit()
        finally:
            if not alone:
                cancel_requests([request])
        return "its workers went"
