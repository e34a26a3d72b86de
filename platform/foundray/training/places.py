"""Places for workers, which Ray Train reserves, and finds anew when nodes come and go."""

from __future__ import annotations

import os
import time
from contextlib import suppress
from typing import Any

import ray
from ray.exceptions import RayError

from foundray.causes import cause_of
from foundray.cluster import beside_caller
from foundray.run import Run, event
from foundray.spec import Pool, Spec

RESIZE_SECONDS = 5.0
"""Between two looks at whether the cluster has room for more workers."""
CLOSE_SECONDS = 5.0


class Places:
    """Ray Train at work, beside the driver: for each pool an actor runs its trainer, so that it can be ended at any time."""

    def __init__(self, run: Run, spec: Spec, workers: dict[str, tuple[int, int]], board: Any, stale: list[str]):
        """`stale` names the requests of commands before, which may have died: Ray would honour them for minutes."""
        keeper = ray.remote(_Keeper).options(num_cpus=0, scheduling_strategy=beside_caller())
        folder = (run.folder / ".ray").url
        self.keepers = {name: keeper.remote() for name in workers}
        cancel_requests(stale)
        self.held = [
            self.keepers[name].hold.remote(board, name, spec.scale.all_pools[name], fewest, most, folder)
            for name, (fewest, most) in workers.items()
            if most
        ]

    def problem(self) -> str | None:
        """Why Ray Train gave up, if it did."""
        for done in ray.wait(self.held, num_returns=len(self.held), timeout=0)[0]:
            try:
                return str(ray.get(done))
            except RayError as error:
                return cause_of(error)
        return None

    def close(self, requests: list[str]) -> None:
        """Free the places, whose holders the board has told to go."""
        with suppress(RayError):
            ray.wait(self.held, num_returns=len(self.held), timeout=CLOSE_SECONDS)
            for keeper in self.keepers.values():
                ray.kill(keeper)
        cancel_requests(requests)


def cancel_requests(names: list[str]) -> None:
    """Withdraw what Ray Train has asked Ray's autoscaling coordinator for. One that is not there is no matter."""
    # There is no public call: Ray Train withdraws its request itself, unless it is killed.
    from ray.data._internal.cluster_autoscaler.default_autoscaling_coordinator import get_or_create_autoscaling_coordinator

    with suppress(RayError, ValueError):
        coordinator = get_or_create_autoscaling_coordinator()  # which Ray Train will need, and which takes a while to start
        if names:
            ray.wait([coordinator.cancel_request.remote(name) for name in names], num_returns=len(names), timeout=10)


class _Keeper:
    def hold(self, board: Any, name: str, pool: Pool, fewest: int, most: int, folder: str) -> str:
        # Ray Train counts a lost node for a while yet: it should not wait a minute for a place there.
        os.environ.setdefault("RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S", "10")
        os.environ.setdefault("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "0.5")
        # Who is told to go is looked after by the crew: nobody asks Ray Train's watcher, which is one more process.
        os.environ.setdefault("RAY_TRAIN_ENABLE_PREEMPTION_WATCHER", "0")
        from ray.train import FailureConfig, RunConfig, ScalingConfig
        from ray.train.v2._internal.callbacks.datasets import DatasetsCallback
        from ray.train.v2.api.data_parallel_trainer import DataParallelTrainer

        from foundray.training.board import hold_place

        class Trainer(DataParallelTrainer):
            def _create_default_callbacks(self) -> list[Any]:
                # It is given no data sets: the process that would manage them is left out.
                return [one for one in super()._create_default_callbacks() if not isinstance(one, DatasetsCallback)]

        trainer = Trainer(
            hold_place,
            train_loop_config={"board": board, "pool": name},
            scaling_config=ScalingConfig(
                num_workers=most if fewest == most else (max(1, fewest), most),
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
        board.append.remote([event("places", pool=name, request=f"train-{trainer.train_run_context.run_id}")])
        trainer.fit()
        return "its workers went"
