"""Ray Data without two helper actors, for a local Ray that serves one command.

One actor divides the cluster between Datasets and requests nodes; the other collects statistics for Ray's dashboard, which a
local Ray does not have. Each takes two seconds of a core at the start of every run.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock
from uuid import uuid4

from foundray.cluster.connect import whole_nodes


@contextmanager
def without_helpers() -> Iterator[None]:
    """Keep Ray Data in this process from starting its helper actors. Patches private names: there is no public option."""
    from ray.data._internal.cluster_autoscaler import rate_based_cluster_autoscaler as autoscaler
    from ray.data._internal.stats import _StatsManager as manager

    reports = ("register_dataset_to_stats_actor", "update_execution_metrics", "update_iteration_metrics")
    statistics: dict[str, Any] = {name: staticmethod(_ignore) for name in reports}
    statistics["gen_dataset_id_from_stats_actor"] = staticmethod(lambda: uuid4().hex)
    with (
        mock.patch.multiple(autoscaler, DefaultAutoscalingCoordinator=_WholeMachine),
        mock.patch.multiple(manager, **statistics),
    ):
        yield


def _ignore(*arguments: Any, **options: Any) -> None:
    pass


class _WholeMachine:
    """Ray Data's source of resources: all that the nodes have."""

    def __init__(self, *arguments: Any, **options: Any):
        pass

    def request_resources(self, *arguments: Any, **options: Any) -> None:
        pass

    def cancel_request(self) -> None:
        pass

    def get_reserved_resources(self) -> dict[str, dict[str, float]]:
        return whole_nodes()
