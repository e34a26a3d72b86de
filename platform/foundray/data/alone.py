"""Ray Data on a Ray that one command has for itself, on one machine, without two processes that serve others.

Ray Data starts one that divides a cluster between those who ask, and asks for more nodes; and one that collects statistics for
Ray's dashboard, which such a Ray does not have. Each takes two seconds of a core at the start of every run.
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
    """In this process, for all Datasets that it runs meanwhile. There is no public way."""
    from ray.data._internal.cluster_autoscaler import rate_based_cluster_autoscaler as autoscaler
    from ray.data._internal.stats import _StatsManager as manager

    told = ("register_dataset_to_stats_actor", "update_execution_metrics", "update_iteration_metrics")
    statistics: dict[str, Any] = {name: staticmethod(_nothing) for name in told}
    statistics["gen_dataset_id_from_stats_actor"] = staticmethod(lambda: uuid4().hex)
    with (
        mock.patch.multiple(autoscaler, DefaultAutoscalingCoordinator=_WholeMachine),
        mock.patch.multiple(manager, **statistics),
    ):
        yield


def _nothing(*arguments: Any, **options: Any) -> None:
    pass


class _WholeMachine:
    """What Ray Data asks for resources: all that the nodes have is there for it."""

    def __init__(self, *arguments: Any, **options: Any):
        pass

    def request_resources(self, *arguments: Any, **options: Any) -> None:
        pass

    def cancel_request(self) -> None:
        pass

    def get_reserved_resources(self) -> dict[str, dict[str, float]]:
        return whole_nodes()
