"""One actor per node of a cluster, and questions to all of them at once, with a time limit."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from types import TracebackType
from typing import Any

import ray
from ray import cloudpickle
from ray.exceptions import RayError, RayTaskError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from foundray.preflight.checkup import probe
from foundray.preflight.checkup.nodes import Node

TURNS = 5
"""Readings of a node's clock; the quickest counts."""


def cluster_nodes() -> list[Node]:
    """The nodes that Ray knows to be alive, by address."""
    from ray._private.state import available_resources_per_node  # there is no public call

    free, here = available_resources_per_node(), ray.get_runtime_context().get_node_id()
    return sorted((_node(entry, free, here) for entry in ray.nodes() if entry["Alive"]), key=lambda node: node.address)


def _node(entry: dict[str, Any], free: dict[str, dict[str, float]], here: str) -> Node:
    has, left = entry["Resources"], free.get(entry["NodeID"], {})
    kinds = [name.partition(":")[2] for name in has if name.startswith("accelerator_type:")]
    name = entry["NodeName"]
    return Node(
        id=entry["NodeID"],
        address=entry["NodeManagerAddress"],
        host=entry["NodeManagerHostname"] if name == entry["NodeManagerAddress"] else name,
        cpus=has.get("CPU", 0),
        gpus=has.get("GPU", 0),
        memory=has.get("memory", 0),
        object_store=has.get("object_store_memory", 0),
        accelerator=kinds[0] if kinds else None,
        labels={key: value for key, value in entry["Labels"].items() if key != "ray.io/node-id"},
        in_use={kind: has[kind] - left.get(kind, 0) for kind in ("CPU", "GPU") if has.get(kind, 0) - left.get(kind, 0) > 1e-3},
        here=entry["NodeID"] == here,
    )


class Probes:
    """Context manager: an actor on each node, which takes no CPU or GPU, so that it fits beside a run."""

    def __init__(self, nodes: Sequence[Node]):
        cloudpickle.register_pickle_by_value(probe)
        try:
            actor = ray.remote(probe.Probe)
            self.handles = {
                node: actor.options(
                    num_cpus=0, num_gpus=0, scheduling_strategy=NodeAffinitySchedulingStrategy(node.id, soft=False)
                ).remote()
                for node in nodes
            }
        finally:
            cloudpickle.unregister_pickle_by_value(probe)

    def __enter__(self) -> Probes:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        for handle in self.handles.values():
            with suppress(RayError):
                ray.kill(handle)

    @property
    def nodes(self) -> list[Node]:
        """Nodes that have answered so far."""
        return [node for node in self.handles if node.silence is None]

    def ask(self, method: str, arguments: Mapping[Node, tuple[Any, ...]], seconds: float) -> dict[Node, Any]:
        """Answers by node. A node that does not answer in time gets its `silence`, and is not asked again."""
        asked = {
            getattr(self.handles[node], method).remote(*args): node for node, args in arguments.items() if not node.silence
        }
        done, _ = ray.wait(list(asked), num_returns=len(asked), timeout=seconds) if asked else ([], [])
        answers = {}
        for reference, node in asked.items():
            if reference not in done:
                node.silence = f"no answer within {seconds:.0f} s"
                continue
            try:
                answers[node] = ray.get(reference)
            except RayTaskError as error:
                node.silence = f"{type(error.cause).__name__}: {str(error.cause).splitlines()[0]}"
            except RayError as error:
                node.silence = f"{type(error).__name__} while it was asked"
        return answers

    def ask_all(self, method: str, *arguments: Any, seconds: float) -> dict[Node, Any]:
        return self.ask(method, dict.fromkeys(self.nodes, arguments), seconds)

    def skew(self, node: Node, seconds: float) -> tuple[float, float] | None:
        """Seconds by which a node's clock is ahead of this one, and the error: half the round trip."""
        readings = []
        with suppress(RayError):
            for _ in range(TURNS):
                begun, tick = time.time(), time.perf_counter()
                there = ray.get(self.handles[node].clock.remote(), timeout=seconds)
                half = (time.perf_counter() - tick) / 2
                readings.append((half, there - begun - half))
        return (min(readings)[1], min(readings)[0]) if readings else None


def disjoint(pairs: Iterable[tuple[Node, Node]]) -> list[list[tuple[Node, Node]]]:
    """Rounds of pairs, in each of which a node occurs once at most."""
    rounds: list[list[tuple[Node, Node]]] = []
    for pair in pairs:
        room = next((some for some in rounds if not any(node in other for other in some for node in pair)), None)
        if room is None:
            rounds.append(room := [])
        room.append(pair)
    return rounds
