"""Connecting to Ray, and fitting a run to what the cluster has."""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from foundray.errors import InputError
from foundray.spec import Scale

LOCAL_OBJECT_STORE = 2**30
"""Bytes of shared memory for Ray's objects where we start Ray ourselves."""


@contextlib.contextmanager
def connected() -> Iterator[Any]:
    """Ray, while the block runs: the cluster at RAY_ADDRESS, or a local one of this command's own.

    A connection that the calling program already has is used and kept. Raises InputError where there is no cluster.
    """
    # Ray Train looks after its workers every 2 s unless told otherwise; a short run should not wait for that at its end.
    os.environ.setdefault("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "0.5")
    import ray

    if ray.is_initialized():
        yield ray
        return
    address = os.environ.get("RAY_ADDRESS")
    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
    try:
        if address:
            ray.init(address=address, **quiet)
        else:
            ray.init(
                address="local",
                num_cpus=cores(),
                object_store_memory=LOCAL_OBJECT_STORE,
                include_dashboard=False,
                **quiet,
            )
    except (ConnectionError, TimeoutError, RuntimeError, ValueError) as error:
        where = f"the cluster at RAY_ADDRESS={address}" if address else "a local Ray"
        raise InputError(f"cannot reach {where}: {str(error).splitlines()[0]}") from None
    try:
        yield ray
    finally:
        ray.shutdown()


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@dataclass(frozen=True)
class Fit:
    """How many workers a cluster takes."""

    fewest: int
    most: int
    now: int
    """As many as fit this minute."""


def fit(scale: Scale, nodes: list[dict[str, float]], can_grow: bool, report: Callable[[str], None]) -> Fit:
    """Fit `scale` to the nodes' resources, and say what was reduced. Raises InputError where not even the fewest fit."""
    fewest, most = scale.workers
    fits = sum(int(min((node.get(name, 0.0) + 1e-9) // amount for name, amount in scale.resources.items())) for node in nodes)
    each = ", ".join(f"{amount:g} {name}" for name, amount in scale.resources.items())
    have = ", ".join(f"{sum(node.get(name, 0.0) for node in nodes):g} {name}" for name in scale.resources)
    if fits < fewest:
        place = "the cluster" if can_grow else "this machine"
        less = f" (a CPU of {_share(nodes, fewest):g} each would do)" if "CPU" in scale.resources else ""
        raise InputError(
            f"scale.workers asks for at least {fewest} workers with {each} each, and {place} has {have}, enough for {fits}: "
            f"set scale.workers to at most {max(fits, 1)}, or lower scale.resources{less}"
        )
    now = min(most, fits)
    if now < most:
        report(f"workers: {now} of at most {most} ({have}, {each} a worker)")
    return Fit(fewest, most if can_grow else now, now)


def _share(nodes: list[dict[str, float]], workers: int) -> float:
    """The CPUs that each of some workers can have, to two digits, rounded down."""
    return int(100 * sum(node.get("CPU", 0.0) for node in nodes) / workers) / 100


def node_resources(ray: Any) -> list[dict[str, float]]:
    return [node["Resources"] for node in ray.nodes() if node["Alive"]]
