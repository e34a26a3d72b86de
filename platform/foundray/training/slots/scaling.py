"""How many places Ray Train holds: as many as fit on nodes that stay."""

from __future__ import annotations

from typing import Any

from ray.train.v2._internal.execution.scaling_policy import NoopDecision, ResizeDecision
from ray.train.v2._internal.execution.scaling_policy.elastic import ElasticScalingPolicy
from ray.train.v2._internal.execution.scaling_policy.fixed import FixedScalingPolicy

from foundray.cluster.connect import draining_nodes


class StayingNodes(ElasticScalingPolicy):
    """Ray Train's elastic policy, for which a node that was told to go has no room.

    The stock one counts it until it is gone: it asks for places there that nobody can get, and lets a node that has come
    meanwhile wait.
    """

    def __init__(self, scaling_config: Any):
        super().__init__(scaling_config)
        self.going = 0
        """Workers that nodes which were told to go have room for."""

    def _get_num_workers_for_resource_request(self) -> int:
        # What is reserved on a node that goes is of no use; besides, a cluster that can grow should begin to.
        return int(super()._get_num_workers_for_resource_request()) + self.going

    def _count_possible_workers(self, reserved_resources: Any) -> int:
        going = draining_nodes()
        self.going = int(super()._count_possible_workers({n: r for n, r in reserved_resources.items() if n in going}))
        return int(super()._count_possible_workers({n: r for n, r in reserved_resources.items() if n not in going}))

    def make_decision_for_running_worker_group(self, worker_group_state: Any, worker_group_status: Any) -> Any:
        before = self._latest_monitor_time
        decision = super().make_decision_for_running_worker_group(worker_group_state, worker_group_status)
        if not isinstance(decision, NoopDecision) or self._latest_monitor_time == before:
            return decision
        return self._moved(worker_group_state) or decision

    def _moved(self, state: Any) -> ResizeDecision | None:
        """As many places as before, but elsewhere, if some lie on nodes that go."""
        going = draining_nodes()
        if not any(worker.metadata.node_id in going for worker in state.workers):
            return None
        reserved = self._get_reserved_resources()
        room = 0 if reserved is None else self._count_possible_workers(reserved)
        return self._get_resize_decision(room) if room == state.num_workers else None


class OneMachine(FixedScalingPolicy):
    """As many places as this command's own Ray was found to have room for: nothing comes or goes there, and nobody else asks.

    So no coordinator is asked, which would be one more process.
    """

    def _send_resource_request(self) -> None:
        pass

    def _maybe_send_resource_request(self) -> None:
        pass

    def _cancel_resource_request(self) -> None:
        pass
