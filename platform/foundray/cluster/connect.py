"""Connecting to Ray, and fitting a run to what the cluster has."""

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
from foundray.cluster.local.cluster import NODE_IP, LocalCluster, local_cluster_at, token_environment
from foundray.cluster.local_ray import local_ray
from foundray.errors import FoundrayError, InputError, RunFailed
from foundray.host.machine import cores
from foundray.host.signals import heeded, renew
from foundray.spec import PoolConfig, ScaleConfig
from foundray.wording.sentences import short_node

HEAD_BEAT_SECONDS = 2.0
HEAD_SECONDS = 40.0
"""Longest that the cluster's head may be away, for a restart that keeps its state."""
AGAIN = "the same command continues once it is back"
_when_lost: list[Callable[[], None]] = []
"""What is done if the head is lost, the innermost last."""


def enter_cluster(address: str | None = None) -> LocalCluster | None:
    """The local cluster at an address or URL (default: RAY_ADDRESS), if it is one, with its token in the environment: before
    Ray is imported, which reads that once."""
    address = address or os.environ.get("RAY_ADDRESS")
    here = local_cluster_at(address) if address else None
    if here:
        os.environ.update(token_environment(here.folder))
    return here


@contextlib.contextmanager
def connected(report: Callable[[str], None] | None = None) -> Iterator[Any]:
    """Ray, while the block runs: the cluster at RAY_ADDRESS, or a local one of this command's own.

    `report` is told what takes seconds. A connection that the calling program already has is used and kept. Raises InputError
    where there is no cluster.
    """
    address = os.environ.get("RAY_ADDRESS")
    here = enter_cluster()
    import ray

    if ray.is_initialized():
        yield ray
        return
    _quieten()
    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
    own = address in (None, "", "local")  # the last is Ray's own word for none
    if report:
        report("starting Ray" if own else f"connecting to the cluster at {address}")
    with heeded(), local_ray(cores(), quiet) if own else _joined(str(address), here, quiet) as ray:
        renew()  # Ray's own answer to SIGTERM is a stack trace
        yield ray


@contextlib.contextmanager
def _joined(address: str, here: LocalCluster | None, quiet: dict[str, Any]) -> Iterator[Any]:
    """Ray, connected to the cluster at an address; `here` is that, if it is on this machine. Raises InputError."""
    import ray

    try:
        # A job's driver joins the node that it is on; others join the head.
        ip = os.environ.get(NODE_IP, here.head_ip) if here else None
        ask_head(address, ip)
        ray.init(address=address, _node_ip_address=ip, **quiet)
    except InputError:
        raise
    except Exception as error:  # Ray raises many kinds here, bare Exception among them if the machine is too busy
        ray.shutdown()  # what was begun before it failed
        why = (str(error).splitlines() or [type(error).__name__])[0]
        raise InputError(f"cannot reach the cluster at RAY_ADDRESS={address}: {why}") from None
    try:
        with head_watched(_end_without_head):
            yield ray
    except FoundrayError:  # some are Ray's errors as well
        raise
    except (ray.exceptions.RayError, ConnectionError) as error:
        raise RunFailed(f"the cluster at RAY_ADDRESS={address} was lost: {cause_of(error)}; {AGAIN}") from error
    finally:
        ray.shutdown()


def _end_without_head() -> None:
    # No exception would do: the main thread waits inside Ray, which is about to end the process.
    print(f"foundray: the head of the Ray cluster has been away for {HEAD_SECONDS:.0f} s; {AGAIN}", file=sys.stderr, flush=True)
    os._exit(RunFailed.exit_status)


@contextlib.contextmanager
def head_watched(lost: Callable[[], None]) -> Iterator[None]:
    """While the block runs, a thread looks after the cluster's head, and calls `lost` when it has been away for long.

    Ray's own calls wait for the head for a minute; then Ray ends the process, without a word of ours. Of blocks inside each
    other, the inner one's `lost` is called.
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
    """Keep Ray's news of lost nodes, which can be pages long, out of the output: the run says itself what happens."""
    from ray._private import worker  # there is no public switch

    worker.listen_error_messages = lambda *_: None


def fit(
    scale: ScaleConfig, nodes: list[dict[str, float]], can_grow: bool, report: Callable[[str], None]
) -> dict[str, tuple[int, int]]:
    """The fewest and most workers of each pool on these nodes, saying what was reduced. Raises InputError."""
    return {name: _fit(name, pool, nodes, can_grow, report) for name, pool in scale.all_pools.items()}


def _fit(
    name: str, pool: PoolConfig, nodes: list[dict[str, float]], can_grow: bool, report: Callable[[str], None]
) -> tuple[int, int]:
    fewest, most = pool.workers
    where = f"scale.pools.{name}" if name else "scale"
    fits = room(pool.resources, nodes)
    each = ", ".join(f"{amount:g} {kind}" for kind, amount in pool.resources.items())
    have = ", ".join(f"{sum(node.get(kind, 0.0) for node in nodes):g} {kind}" for kind in pool.resources)
    if fits < fewest and can_grow:  # the cluster may have more soon; the run waits for that
        report(f"the cluster has {have}, enough for {fits} of at least {fewest} workers with {each} each")
        return fewest, most
    if fits < fewest and (without := _missing(pool.resources, nodes)):
        raise InputError(
            f"{where}.resources asks for {each} a worker, and Ray finds no {without} on this machine: ask for what it has, or "
            "run on a cluster that has it (`foundray submit`, or RAY_ADDRESS)"
        )
    if fits < fewest:
        less = f" (a CPU of {_share(nodes, fewest):g} each would do)" if "CPU" in pool.resources else ""
        raise InputError(
            f"{where}.workers asks for at least {fewest} workers with {each} each, and this machine has {have}, enough for "
            f"{fits}: set {where}.workers to at most {max(fits, 1)}, or lower {where}.resources{less}"
        )
    now = min(most, fits)
    if now < most:
        report(f"workers: {now} of at most {most} ({have}, {each} a worker)")
    return fewest, most if can_grow else now


def _missing(resources: Mapping[str, float], nodes: list[dict[str, float]]) -> str | None:
    """A kind of resource that none of the nodes has."""
    return next((kind for kind in resources if not any(node.get(kind, 0.0) for node in nodes)), None)


def room(resources: Mapping[str, float], nodes: list[dict[str, float]]) -> int:
    """How many workers with so much each the nodes have room for."""
    return sum(fits_on(resources, node) for node in nodes)


def fits_on(resources: Mapping[str, float], node: Mapping[str, float]) -> int:
    """How many workers with so much each a node has room for that has so much."""
    return int(min((node.get(kind, 0.0) + 1e-9) // amount for kind, amount in resources.items()))


def _share(nodes: list[dict[str, float]], workers: int) -> float:
    """The CPUs that each of some workers can have, to two digits, rounded down."""
    return int(100 * sum(node.get("CPU", 0.0) for node in nodes) / workers) / 100


def node_resources() -> list[dict[str, float]]:
    """What each node has, taken or not."""
    return list(whole_nodes().values())


def whole_nodes() -> dict[str, dict[str, float]]:
    """The same by the node's id."""
    import ray

    return {node["NodeID"]: node["Resources"] for node in ray.nodes() if node["Alive"]}


def free_resources() -> dict[str, dict[str, float]]:
    """What is not taken on each node that stays, by its id."""
    from ray._private.state import available_resources_per_node  # there is no public call

    going = draining_nodes()
    return {node: free for node, free in available_resources_per_node().items() if node not in going}


def node_memory() -> dict[str, float]:
    """Bytes of main memory that Ray counts on each node, by its id."""
    import ray

    return {node["NodeID"]: node["Resources"].get("memory", 0.0) for node in ray.nodes() if node["Alive"]}


def names_of(nodes: Iterable[Mapping[str, Any]]) -> dict[str, str]:
    """What people call each of Ray's nodes, by its id: the name that it was started with, such as that of a local cluster's
    node; else its host's name, if no other node is on that host; else the first digits of its id."""
    listed = list(nodes)
    hosts = Counter(node["NodeManagerHostname"] for node in listed if node["Alive"])

    def name(node: Mapping[str, Any]) -> str:
        given, host = node.get("NodeName"), node["NodeManagerHostname"]
        if given and given != node["NodeManagerAddress"]:
            return str(given)
        return str(host) if host and hosts[host] <= 1 else short_node(node["NodeID"])

    return {node["NodeID"]: name(node) for node in listed}


def node_name(node: str) -> str:
    """What people call the node with this id: see `names_of`."""
    import ray

    try:
        return names_of(ray.nodes()).get(node) or short_node(node)
    except Exception:  # the control store may be away for a while
        return short_node(node)


def beside_caller(soft: bool = False) -> Any:
    """A scheduling strategy: on the calling process's node; elsewhere only if `soft`, when that node is gone."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    return NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=soft)


def draining_nodes() -> set[str]:
    """Ids of the nodes that were told to go (a spot instance's notice, `ray drain-node`)."""
    from ray._private.state import state  # there is no public call

    try:
        return set(state.get_draining_nodes())
    except Exception:  # the control store may be away for a while
        return set()
