"""A local cluster whose nodes come and go while a run is at work on it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from tests.chaos.lan import Lan

from foundray.cluster.local.cluster import LocalCluster
from foundray.cluster.local.node import SEPARATE

FEWEST, NODES = 3, 4
"""Nodes besides the head that there are between two faults, and that there may be."""
RESOURCES = {"CPU": 1.0}


class Site:
    def __init__(self, cluster: LocalCluster, lan: Lan | None = None, environment: Mapping[str, str] | None = None):
        """`lan` gives each node a network stack of its own; `environment` has variables of all nodes' processes."""
        self.cluster, self.lan, self.environment = cluster, lan, environment or {}

    def nodes(self) -> list[str]:
        """Names of the nodes that can be lost: all but the head."""
        return sorted(name for name in self.cluster.nodes if name != "head")

    def add(self) -> None:
        """Add a node, unless there are enough."""
        if len(self.nodes()) < NODES:
            wrapper = self.lan.host(self.cluster.added + 1) if self.lan else ()
            self.cluster.add(RESOURCES, environment=self.environment, wrapper=wrapper)

    def fill(self, count: int) -> None:
        """Add nodes until there are `count`."""
        while len(self.nodes()) < count:
            self.add()

    def replace(self) -> None:
        """Kill every process of the cluster, and start another one without nodes."""
        folder = self.cluster.folder
        self.cluster.down()
        self.cluster.__dict__.update(head_of(folder, self.lan).__dict__)


def head_of(folder: Path, lan: Lan | None = None) -> LocalCluster:
    """Start a cluster without nodes."""
    return LocalCluster.up(0, RESOURCES, folder, dashboard=False, network=SEPARATE if lan else None)
