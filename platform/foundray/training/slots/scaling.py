"""Policies for the number of slots that Ray Train holds: as many as fit on nodes that stay."""

from __future__ import annotations

from typing import Any

from ray.train.v2._internal.execution.scaling_policy import NoopDecision, ResizeDecision
from ray.train.v2._internal.execution.scaling_policy.elastic import ElasticScalingPolicy
from ray.train.v2._internal.execution.scaling_policy.fixed import FixedScalingPolicy

from foundray.cluster.connect import draining_nodes


class StayingNodes(ElasticScalingPolicy):
    """Ray Train's elastic policy, except that draining nodes have no room.

    The stock policy counts a draining node until it is gone: it requests slots there that cannot be had, and leaves a new node
    waiting.
    """

    def __init__(self, scaling_config: Any):
        super().__init__(scaling_config)
        self.draining_capacity = 0
        """Workers for which draining nodes have room."""

    def _get_num_workers_for_resource_request(self) -> int:
        # Slots on a draining node are of no use; and a cluster that can grow should start to.
        return int(super()._get_num_workers_for_resource_request()) + self.draining_capacity

    def _count_possible_workers(self, reserved_resources: Any) -> int:
        draining = draining_nodes()
        self.draining_capacity = int(
            super()._count_possible_workers({n: r for n, r in reserved_resources.items() if n in draining})
        )
        return int(super()._count_possible_workers({n: r for n, r in reserved_resources.items() if n not in draining}))

    def make_decision_for_running_worker_group(self, worker_group_state: Any, worker_group_status: Any) -> Any:
        before = self._latest_monitor_time
        decision = super().make_decision_for_running_worker_group(worker_group_state, worker_group_status)
        if not isinstance(decision, NoopDecision) or self._latest_monitor_time == before:
            return decision
        return self._relocated(worker_group_state) or decision

    def _relocated(self, state: Any) -> ResizeDecision | None:
        """Return the same number of slots on other nodes if some lie on draining ones."""
        draining = draining_nodes()
        if not any(worker.metadata.node_id in draining for worker in state.workers):
            return None
        reserved = self._get_reserved_resources()
        room = 0 if reserved is None else self._count_possible_workers(reserved)
        return self._get_resize_decision(room) if room == state.num_workers else None


class OneMachine(FixedScalingPolicy):
    """As many slots as fit on this command's own Ray, where nodes neither come nor go and nobody competes.

    It makes no requests, since the coordinator that answers them would be another process.
    """

    def _send_resource_request(self) -> None:
        pass

    def _maybe_send_resource_request(self) -> None:
        pass

    def _cancel_resource_request(self) -> None:
        pass
