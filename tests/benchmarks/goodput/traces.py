"""Which nodes are there when: failures drawn by a seed, or a public trace of spot instances."""

from __future__ import annotations

import heapq
import random
from pathlib import Path
from typing import NamedTuple

from tests.benchmarks.goodput.costs import Costs


class Change(NamedTuple):
    """A node comes, or goes."""

    at: float
    node: str
    there: bool
    silent: bool = False
    """Whether it goes without closing its connections."""


Trace = list[Change]
"""Changes in the order of their times."""


def failures(costs: Costs, seconds: float, seed: int) -> Trace:
    """All nodes are there, and warm, at the start. Failures are exponential, each of one node, which another one replaces."""
    rng, there = random.Random(seed), [f"node-{index}" for index in range(costs.nodes)]
    trace = [Change(0.0, node, True) for node in there]
    coming: list[tuple[float, str]] = []
    now, made = 0.0, costs.nodes
    while True:
        now += rng.expovariate(1 / costs.between_failures_s)
        picked, silent = rng.random(), rng.random() < costs.silent
        if now >= seconds:
            return sorted([*trace, *(Change(at, node, True) for at, node in coming if at < seconds)])
        while coming and coming[0][0] <= now:
            at, node = heapq.heappop(coming)
            trace.append(Change(at, node, True))
            there.append(node)
        if there:
            trace.append(Change(now, there.pop(int(picked * len(there))), False, silent))
            heapq.heappush(coming, (now + costs.replacement_s, f"node-{made}"))
            made += 1


def spot_instances(path: Path) -> Trace:
    """Read a trace of spot instances, whose lines are `milliseconds,add|remove,node`."""
    lines = [line.split(",") for line in path.read_text().split()]
    first = min(float(line[0]) for line in lines)
    return sorted(Change((float(at) - first) / 1000, node, kind == "add") for at, kind, node in lines)


def node_seconds(trace: Trace, seconds: float) -> float:
    """Time of all nodes that were there."""
    return sum((seconds - change.at) * (1 if change.there else -1) for change in trace if change.at < seconds)


def most_nodes(trace: Trace) -> int:
    """The most nodes that are there at once."""
    count = most = 0
    for change in trace:
        count += 1 if change.there else -1
        most = max(most, count)
    return most
