"""Connect to Ray, and fit a run to the cluster's resources."""

from __future__ import annotations

import contextlib
import logging
import os
import socket
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from foundray.cluster.causes import cause_of
from foundray.cluster.head import ask_head
from foundray.cluster.local.cluster import LocalCluster, local_cluster_at
from foundray.cluster.local.ray_start import NODE_IP, token_environment
from foundray.cluster.local_ray import local_ray
from foundray.errors import FoundrayError, InputError, RunFailed
from foundray.host.machine import cores
from foundray.host.signals import heeded, renew
from foundray.spec import PoolConfig, ScaleConfig
from foundray.wording.sentences import short_node

HEAD_BEAT_SECONDS = 2.0
HEAD_SECONDS = 40.0
"""Longest time that the cluster's head may be away, for a restart that keeps its state."""
AGAIN = "the same command continues once it is back"
_when_lost: list[Callable[[], None]] = []
"""Callbacks for a lost head, the innermost block's last."""


def enter_cluster(address: str | None = None) -> LocalCluster | None:
    """Return the local cluster at an address or URL (default: RAY_ADDRESS), or None, and put its token into the environment.

    Call it before Ray is imported, which reads the environment once, except for the token.
    """
    address = address or os.environ.get("RAY_ADDRESS")
    here = local_cluster_at(address) if address else None
    if here:
        os.environ.update(token_environment(here.folder))
        if "ray" in sys.modules:  # it may know another cluster's token
            from ray._private.authentication.authentication_token_setup import AuthenticationTokenLoader

            AuthenticationTokenLoader.instance().reset_cache()
    return here


@contextlib.contextmanager
def connected(report: Callable[[str], None] | None = None) -> Iterator[Any]:
    """Connect to Ray for the block: to the cluster at RAY_ADDRESS, or to a local Ray of this command's own.

    `report` receives a line before anything that takes seconds. A connection that the calling program already has is used,
    and stays open. Raises InputError if there is no cluster.
    """
    address = os.environ.get("RAY_ADDRESS")
    here = enter_cluster()
    import ray

    if ray.is_initialized():
        yield ray
        return
    _quieten()
    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
    own = address in (None, "", "local")  # "local" is Ray's own word for none
    if report:
        report("starting Ray" if own else f"connecting to the cluster at {address}")
    with heeded(), local_ray(cores(), quiet) if own else _joined(str(address), here, quiet) as ray:
        renew()  # Ray's own handler of SIGTERM prints a stack trace
        yield ray


@contextlib.contextmanager
def _joined(address: str, here: LocalCluster | None, quiet: dict[str, Any]) -> Iterator[Any]:
    """Connect Ray to the cluster at `address`; `here` is that cluster if it is on this machine. Raises InputError."""
    import ray

    try:
        # A job's driver joins its own node; other drivers join the head.
        ip = os.environ.get(NODE_IP, here.head_ip) if here else None
        ask_head(address, ip)
        ray.init(address=address, _node_ip_address=ip, **quiet)
    except InputError:
        raise
    except Exception as error:  # Ray raises many types here, even bare Exception if the machine is too busy
        ray.shutdown()  # clean up a partial start
        why = (str(error).splitlines() or [type(error).__name__])[0]
        raise InputError(f"cannot reach the cluster at RAY_ADDRESS={address}: {why}") from None
    try:
        with head_watched(_end_without_head):
            yield ray
    except FoundrayError:  # some of them are Ray's errors too
        raise
    except (ray.exceptions.RayError, ConnectionError) as error:
        raise RunFailed(f"the cluster at RAY_ADDRESS={address} was lost: {cause_of(error)}; {AGAIN}") from error
    finally:
        ray.shutdown()


def _end_without_head() -> None:
    # An exception would not help: the main thread waits inside Ray, which is about to end the process.
    print(f"foundray: the head of the Ray cluster has been away for {HEAD_SECONDS:.0f} s; {AGAIN}", file=sys.stderr, flush=True)
    os._exit(RunFailed.exit_status)


@contextlib.contextmanager
def head_watched(lost: Callable[[], None]) -> Iterator[None]:
    """Watch the cluster's head from a thread during the block, and call `lost` when it has been away for too long.

    Ray's own calls wait a minute for the head; then Ray ends the process before we could report anything. If blocks are
    nested, the innermost `lost` is called.
    """
    _when_lost.append(lost)
    over = threading.Event()
    try:
        if len(_when_lost) == 1:
            threading.Thread(target=_watch_head, args=(_head_address(), over), daemon=True).start()
        yield
    finally:
        over.set()
        _when_lost.pop()


def _watch_head(address: str, over: threading.Event) -> None:
    host, _, port = address.rpartition(":")
    seen = time.monotonic()
    while not over.wait(HEAD_BEAT_SECONDS):
        with contextlib.suppress(OSError), socket.create_connection((host, int(port)), timeout=HEAD_BEAT_SECONDS):
            seen = time.monotonic()
        if time.monotonic() - seen > HEAD_SECONDS:
            return _when_lost[-1]()


def _head_address() -> str:
    import ray

    return str(ray.get_runtime_context().gcs_address)


def _quieten() -> None:
    """Keep Ray's messages about lost nodes, which can be pages long, out of the output: the run reports losses itself."""
    from ray._private import worker  # no public switch exists

    worker.listen_error_messages = lambda *_: None


def fit(
    scale: ScaleConfig, nodes: list[dict[str, float]], can_grow: bool, report: Callable[[str], None]
) -> dict[str, tuple[int, int]]:
    """Return the fewest and most workers of each pool on these nodes, and report any reduction. Raises InputError."""
    return {name: _fit(name, pool, nodes, can_grow, report) for name, pool in scale.all_pools.items()}


def _fit(
    name: str, pool: PoolConfig, nodes: list[dict[str, float]], can_grow: bool, report: Callable[[str], None]
) -> tuple[int, int]:
    fewest, most = pool.workers
    where = f"scale.pools.{name}" if name else "scale"
    fits = room(pool.resources, nodes)
    each = ", ".join(f"{amount:g} {kind}" for kind, amount in pool.resources.items())
    have = ", ".join(f"{sum(node.get(kind, 0.0) for node in nodes):g} {kind}" for kind in pool.resources)
    if fits < fewest and can_grow:  # the cluster may grow soon; the run waits for that
        report(f"the cluster has {have}, enough for {fits} of at least {fewest} workers with {each} each")
        return fewest, most
    if fits < fewest and (without := _missing(pool.resources, nodes)):
        raise InputError(
            f"{where}.resources asks for {each} per worker, and Ray finds no {without} on this machine: ask for what it has, "
            "or run on a cluster that has it (`foundray submit`, or RAY_ADDRESS)"
        )
    if fits < fewest:
        less = f" (a CPU of {_share(nodes, fewest):g} each would be enough)" if "CPU" in pool.resources else ""
        raise InputError(
            f"{where}.workers asks for at least {fewest} workers with {each} each, and this machine has {have}, enough for "
            f"{fits}: set {where}.workers to at most {max(fits, 1)}, or lower {where}.resources{less}"
        )
    now = min(most, fits)
    if now < most:
        report(f"workers: {now} of at most {most} ({have}, {each} per worker)")
    return fewest, most if can_grow else now


def _missing(resources: Mapping[str, float], nodes: list[dict[str, float]]) -> str | None:
    """The first kind of resource that no node has, or None."""
    return next((kind for kind in resources if not any(node.get(kind, 0.0) for node in nodes)), None)


def room(resources: Mapping[str, float], nodes: list[dict[str, float]]) -> int:
    """Number of workers, each needing `resources`, that fit on the nodes."""
    return sum(fits_on(resources, node) for node in nodes)


def fits_on(resources: Mapping[str, float], node: Mapping[str, float]) -> int:
    """Number of workers, each needing `resources`, that fit on `node`."""
    return int(min((node.get(kind, 0.0) + 1e-9) // amount for kind, amount in resources.items()))


def _share(nodes: list[dict[str, float]], workers: int) -> float:
    """CPUs available per worker, rounded down to two digits."""
    return int(100 * sum(node.get("CPU", 0.0) for node in nodes) / workers) / 100


def node_resources() -> list[dict[str, float]]:
    """Resources of each living node, whether in use or free."""
    return list(whole_nodes().values())


def whole_nodes() -> dict[str, dict[str, float]]:
    """Resources of each living node, whether in use or free, by node id."""
    import ray

    return {node["NodeID"]: node["Resources"] for node in ray.nodes() if node["Alive"]}


def accelerators() -> list[str]:
    """Ray's names of the living nodes' accelerators."""
    kinds = {name.partition(":")[2] for node in node_resources() for name in node if name.startswith("accelerator_type:")}
    return sorted(kinds)


def free_resources() -> dict[str, dict[str, float]]:
    """Free resources of each node that is not draining, by node id."""
    from ray._private.state import available_resources_per_node  # no public call exists

    draining = draining_nodes()
    return {node: free for node, free in available_resources_per_node().items() if node not in draining}


def node_memory() -> dict[str, float]:
    """Bytes of main memory that Ray counts on each living node, by node id."""
    import ray

    return {node["NodeID"]: node["Resources"].get("memory", 0.0) for node in ray.nodes() if node["Alive"]}


def names_of(nodes: Iterable[Mapping[str, Any]]) -> dict[str, str]:
    """Readable names of Ray's nodes, by node id.

    A node's name is the one that it was started with, as in a local cluster; else its host's name, if it is the host's only
    node; else the first digits of its id.
    """
    listed = list(nodes)
    hosts = Counter(node["NodeManagerHostname"] for node in listed if node["Alive"])

    def name(node: Mapping[str, Any]) -> str:
        given, host = node.get("NodeName"), node["NodeManagerHostname"]
        if given and given != node["NodeManagerAddress"]:
            return str(given)
        return str(host) if host and hosts[host] <= 1 else short_node(node["NodeID"])

    return {node["NodeID"]: name(node) for node in listed}


def node_name(node: str) -> str:
    """Readable name of the node with this id; see `names_of`."""
    import ray

    try:
        return names_of(ray.nodes()).get(node) or short_node(node)
    except Exception:  # the control store may be away for a while
        return short_node(node)


def beside_caller() -> Any:
    """Scheduling strategy for the calling process's node. (A soft affinity places actors anywhere: Ray 2.60.)"""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    return NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)


def draining_nodes() -> set[str]:
    """Ids of the nodes that have received notice (a spot instance's, or `ray drain-node`)."""
    from ray._private.state import state  # no public call exists

    try:
        return set(state.get_draining_nodes())
    except Exception:  # the control store may be away for a while
        return set()
