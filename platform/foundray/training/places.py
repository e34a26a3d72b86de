"""Places for workers, which Ray Train reserves, and finds anew when nodes come and go."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import ray
from ray.exceptions import RayError

from foundray.causes import cause_of
from foundray.cluster import beside_caller
from foundray.run import Run, event
from foundray.spec import Pool, Spec
from foundray.training.board import Place

RESIZE_SECONDS = 5.0
"""Between two looks at whether the cluster has room for more workers."""
CLOSE_SECONDS = 5.0
ATTEMPTS = 4
"""Times in a row that Ray Train may end without holding a place, before a run without workers gives up."""
MOST_PAUSE_SECONDS = 30.0
"""Between two attempts; the first pause is of one second, and each is twice as long as the one before."""


class Places:
    """Ray Train at work, beside the driver: for each pool an actor runs its trainer, so that it can be ended at any time."""

    def __init__(self, run: Run, spec: Spec, workers: dict[str, tuple[int, int]], board: Any, stale: list[str]):
        """`stale` names the requests of commands before, which may have died: Ray would honour them for minutes."""
        folder = (run.folder / ".ray").url
        pools = spec.scale.all_pools

        def begin(name: str) -> tuple[Any, Any]:
            keeper = ray.remote(_Keeper).options(num_cpus=0, scheduling_strategy=beside_caller()).remote()
            return keeper, keeper.hold.remote(board, name, pools[name], *workers[name], folder)

        self.pools = [Asked(name, begin) for name, (_, most) in workers.items() if most]
        cancel_requests(stale)

    def take_note(self, records: list[dict[str, Any]]) -> None:
        """What the board brought: a trainer tells there by which name it asks."""
        told = {record["pool"]: record["request"] for record in records if record.get("event") == "places"}
        for asked in self.pools:
            asked.request = told.get(asked.pool, asked.request)

    def tend(self, held: list[Place], computing: bool) -> list[tuple[str, str]]:
        """Ask again where Ray Train gave up, as it does if a node goes while it starts on it; `held` is what it holds now.

        `computing` says whether a group does, which can be without places for a while. Gives (pool, reason) of those that
        Ray Train has given up since the last call.
        """
        pools = {place.pool for place in held}
        for asked in self.pools:
            asked.in_vain = 0 if computing else asked.in_vain
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
            if calls:
                ray.wait(calls, num_returns=len(calls), timeout=CLOSE_SECONDS)
            for asked in self.pools:
                ray.kill(asked.keeper)
        cancel_requests(requests)


class Asked:
    """One pool's trainer, begun again whenever it ends."""

    def __init__(self, pool: str, begin: Callable[[str], tuple[Any, Any]]):
        """`begin` gives an actor, and its call that lasts as long as the trainer does."""
        self.pool, self.begin = pool, begin
        self.keeper, self.call = begin(pool)
        self.failures = 0
        """Times in a row that it ended without a place being held."""
        self.in_vain = 0
        """Of these, those since a group last computed."""
        self.request = ""
        """By which name it asks Ray's autoscaling coordinator, once that is known."""
        self.reason = ""
        self.again = 0.0
        """When it is begun again, where it has ended."""

    def tend(self, held: bool) -> str:
        """Begin again if it is time for that; `held` says whether it holds places. Gives why it ended, if it just did."""
        if self.call is None:
            if time.monotonic() >= self.again:
                if self.request:  # of a keeper that died, who did not withdraw it: Ray would honour it for minutes
                    cancel_requests([self.request])
                    self.request = ""
                self.keeper, self.call = self.begin(self.pool)
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
        from foundray.training.scaling import StayingNodes

        class Trainer(DataParallelTrainer):
            def _create_default_callbacks(self) -> list[Any]:
                # It is given no data sets: the process that would manage them is left out.
                return [one for one in super()._create_default_callbacks() if not isinstance(one, DatasetsCallback)]

            def _initialize_and_run_controller(self, **arguments: Any) -> Any:
                if self.scaling_config.elasticity_enabled:  # there is no public way to choose a policy
                    arguments["scaling_policy"] = StayingNodes(self.scaling_config)
                return super()._initialize_and_run_controller(**arguments)

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
        request = f"train-{trainer.train_run_context.run_id}"
        board.append.remote([event("places", pool=name, request=request)])
        try:
            trainer.fit()
        finally:
            cancel_requests([request])
        return "its workers went"
