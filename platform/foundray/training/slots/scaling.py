"""Policies for the number of slots that Ray Train holds: as many as fit on nodes that stay, and soon after these change."""

from __future__ import annotations

import time
from contextlib import suppress
from typing import Any

import ray
from ray.exceptions import RayError
from ray.train.v2._internal.execution.scaling_policy import NoopDecision
from ray.train.v2._internal.execution.scaling_policy.autoscaling_coordinator_client import TrainAutoscalingCoordinatorClient
from ray.train.v2._internal.execution.scaling_policy.elastic import ElasticScalingPolicy
from ray.train.v2._internal.execution.scaling_policy.fixed import FixedScalingPolicy

from foundray.cluster.connect import draining_nodes, whole_nodes

ANSWER_SECONDS = 5.0
"""Limit for Ray's autoscaling coordinator to answer, as in Ray Train."""
SETTLE_SECONDS = 2.0
"""Age of a group below which it is not resized: nodes that are added together come seconds apart. A judgement."""
PAUSE_SECONDS = 0.5
"""Interval between two looks for a first slot. Ray Train itself looks again at once, and takes a core."""

RECOVERY_SECONDS = 1.5
"""Time after a lost node before new holders of slots start: the workers, which are still there, recover within it, and would
share their processors.
"""

Reserved = dict[str, dict[str, float]]
"""Resources reserved for a run, by node."""


class StayingNodes(ElasticScalingPolicy):
    """Ray Train's elastic policy, except that draining nodes have no room, and that a change of nodes counts at once.

    The stock policy counts a draining node until it is gone: it requests slots there that cannot be had, and leaves a new node
    waiting. And it relies on Ray's autoscaling coordinator, which looks at the cluster's nodes every 20 s unless it is asked
    to, and which the stock policy does not look for again once it is gone.
    """

    def __init__(self, scaling_config: Any):
        super().__init__(scaling_config)
        self.draining_capacity = 0
        """Workers for which reserved resources on draining nodes have room."""
        self.nodes: tuple[frozenset[str], frozenset[str]] = (frozenset(), frozenset())
        """Living nodes, and draining ones, when the number of slots was last considered."""
        self.considered_at = float("-inf")
        """Time at which the number of slots of a running group was last considered."""
        self.was_running = False
        """Whether a group has run since slots were last requested for one that had not."""

    def _get_num_workers_for_resource_request(self) -> int:
        # Slots on a draining node are of no use; and a cluster that can grow should start to.
        return int(super()._get_num_workers_for_resource_request()) + self.draining_capacity

    def make_decision_for_running_worker_group(self, worker_group_state: Any, worker_group_status: Any) -> Any:
        self._maybe_send_resource_request()
        self.was_running = True
        now = time.monotonic()
        if now - worker_group_state.start_time < SETTLE_SECONDS:
            return NoopDecision()
        # Without a change of nodes, resources may have been freed by others.
        waited = now - max(worker_group_state.start_time, self.considered_at)
        if self._nodes_now() == self.nodes and waited < self.scaling_config.elastic_resize_monitor_interval_s:
            return NoopDecision()
        self.considered_at = now
        reserved = self._get_reserved_resources()
        room = 0 if reserved is None else self._count_possible_workers(reserved)
        held = [worker.metadata.node_id for worker in worker_group_state.workers]
        unchanged = room == len(held) and not self.nodes[1].intersection(held)
        return NoopDecision() if unchanged or room < self.scaling_config.min_workers else self._get_resize_decision(room)

    def make_decision_for_non_running_worker_group(self) -> Any:
        if self.was_running:
            self.was_running = False
            time.sleep(RECOVERY_SECONDS)
        decision = super().make_decision_for_non_running_worker_group()
        if isinstance(decision, NoopDecision):
            time.sleep(PAUSE_SECONDS)
        return decision

    def _get_reserved_resources(self) -> Reserved | None:
        """Resources reserved on nodes that stay; None if Ray's coordinator does not answer."""
        nodes = self._nodes_now()
        reserved = self._ask(look=nodes != self.nodes)
        if reserved is None:
            return None
        draining = {node: amounts for node, amounts in reserved.items() if node in nodes[1]}
        if (capacity := self._count_possible_workers(draining)) != self.draining_capacity:
            # The coordinator reserves again as soon as a request changes.
            self.draining_capacity = capacity
            self._send_resource_request()
            if (reserved := self._ask(look=False)) is None:
                return None
        self.nodes = nodes
        return {node: amounts for node, amounts in reserved.items() if node not in nodes[1]}

    def _ask(self, look: bool) -> Reserved | None:
        """Ask Ray's coordinator what it has reserved, and, with `look`, to look at the cluster's nodes first."""
        try:
            call = self._autoscaling_coordinator.get_reserved_resources.remote(self._requester_id, recompute=look)
            reserved: Reserved = ray.get(call, timeout=ANSWER_SECONDS)
            return reserved
        except (RayError, ValueError):
            # It may have died with its node, that of the command which needed it first. This client finds another, or starts
            # one here, and requests again.
            self._coordinator_client = TrainAutoscalingCoordinatorClient(str(self._requester_id))
            return None

    def _nodes_now(self) -> tuple[frozenset[str], frozenset[str]]:
        with suppress(Exception):  # the control store may be away for a while
            return frozenset(whole_nodes()), frozenset(draining_nodes())
        return self.nodes


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
