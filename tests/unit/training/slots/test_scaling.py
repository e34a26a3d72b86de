"""How many slots Ray Train holds: draining nodes have no room, and a change of nodes counts at once."""

from __future__ import annotations

import time
from types import SimpleNamespace
from typing import Any

import pytest
import ray
from ray.data._internal.cluster_autoscaler.default_autoscaling_coordinator import _AutoscalingCoordinatorActor
from ray.exceptions import RayActorError
from ray.train import ScalingConfig
from ray.train.v2._internal.execution.scaling_policy import NoopDecision, ResizeDecision

from foundray.training.slots import scaling
from foundray.training.slots.scaling import SETTLE_SECONDS, StayingNodes


class Cluster:
    """Nodes with room for one worker each, and Ray's own coordinator, which looks at them only if it is asked to."""

    def __init__(self, patch: pytest.MonkeyPatch, nodes: str, draining: str = ""):
        self.nodes, self.draining = nodes, draining
        patch.setattr(scaling, "draining_nodes", lambda: set(self.draining))
        patch.setattr(scaling, "whole_nodes", lambda: {key: {"CPU": 1.0} for key in self.nodes})
        patch.setattr(ray, "get", lambda answer, timeout: answer)
        self.coordinator = _AutoscalingCoordinatorActor(
            send_resources_request=lambda bundles, label_selectors=None: None, get_cluster_nodes=self._listed
        )
        self.lost = False

    def _listed(self) -> list[dict[str, Any]]:
        return [{"NodeID": node, "Alive": True, "Resources": {"CPU": 1.0}} for node in self.nodes]

    # What Ray Train's client of the coordinator does, without Ray.

    @property
    def _autoscaling_coordinator(self) -> Any:
        return SimpleNamespace(get_reserved_resources=SimpleNamespace(remote=self._reserved))

    def _reserved(self, requester: str, recompute: bool) -> Any:
        if self.lost:
            raise RayActorError
        return self.coordinator.get_reserved_resources(requester, recompute)

    def send_resource_request(self, config: ScalingConfig, workers: int) -> None:
        self.coordinator.request_resources("train-1", [{"CPU": 1.0}] * workers, expire_after_s=180)

    def maybe_send_resource_request(self, config: ScalingConfig, workers: int) -> None:
        pass


def policy(cluster: Cluster, most: int = 4) -> StayingNodes:
    made = StayingNodes(ScalingConfig(num_workers=(1, most), elastic_resize_monitor_interval_s=5.0))
    made._requester_id, made._coordinator_client = "train-1", cluster  # Ray's controller sets these when it starts
    made._send_resource_request()
    return made


def group(nodes: str, start_time: float = -100.0) -> Any:
    workers = [SimpleNamespace(metadata=SimpleNamespace(node_id=node)) for node in nodes]
    return SimpleNamespace(start_time=start_time, workers=workers, num_workers=len(workers))


def decided(subject: StayingNodes, held: Any) -> int | None:
    """Number of slots that the policy changes to, or None if it leaves them as they are."""
    decision = subject.make_decision_for_running_worker_group(held, None)
    return decision.num_workers if isinstance(decision, ResizeDecision) else None


@pytest.mark.parametrize(
    ("draining", "nodes", "workers", "expected"),
    [
        ("", "ab", "ab", None),
        ("", "abc", "ab", 3),
        ("b", "ab", "ab", 1),  # the stock policy would keep two
        ("b", "abc", "ab", 2),  # a and c: the stock policy would ask for three and get two
        ("b", "abcd", "ab", 3),
        ("c", "abc", "ab", None),  # the draining node is not used
        ("ab", "ab", "ab", None),  # too few: it continues as long as it can
    ],
)
def test_slots_are_held_on_nodes_that_stay(
    draining: str, nodes: str, workers: str, expected: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    subject = policy(Cluster(monkeypatch, nodes, draining))
    assert decided(subject, group(workers)) == expected
    assert decided(subject, group(workers)) is None, "it was considered a moment ago"


def test_slots_on_draining_nodes_are_requested_elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    subject = policy(Cluster(monkeypatch, "ab", draining="b"), most=2)
    assert subject._get_num_workers_for_resource_request() == 2
    decision = subject.make_decision_for_non_running_worker_group()
    assert isinstance(decision, ResizeDecision) and decision.num_workers == 1
    assert subject._get_num_workers_for_resource_request() == 3


def test_a_new_node_counts_before_the_coordinator_looks_by_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    subject = policy(cluster := Cluster(monkeypatch, "ab"))
    assert decided(subject, group("ab")) is None
    cluster.nodes = "abc"
    assert decided(subject, group("ab", start_time=time.monotonic())) is None, "more may follow"
    assert decided(subject, group("ab", start_time=time.monotonic() - SETTLE_SECONDS)) == 3
    cluster.nodes = "ab"
    assert decided(subject, group("abc")) == 2, "one that is lost has no room either"


def test_a_node_that_replaces_a_draining_one_is_requested_in_the_same_moment(monkeypatch: pytest.MonkeyPatch) -> None:
    """The request for two slots is satisfied by the draining node and the one that stays."""
    subject = policy(cluster := Cluster(monkeypatch, "ab"), most=2)
    assert decided(subject, group("ab")) is None
    cluster.nodes, cluster.draining = "abc", "b"
    assert decided(subject, group("ab")) == 2
    assert decided(subject, group("ac")) is None


def test_another_coordinator_is_found_when_the_first_is_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    """It dies with the node of the command that needed it first."""
    subject = policy(first := Cluster(monkeypatch, "ab"))
    assert decided(subject, group("ab")) is None
    second = Cluster(monkeypatch, "abc")
    second.send_resource_request(subject.scaling_config, 4)
    monkeypatch.setattr(scaling, "TrainAutoscalingCoordinatorClient", lambda requester: second)
    first.lost = True
    assert decided(subject, group("ab")) is None, "it does not answer"
    assert decided(subject, group("ab")) == 3


def test_looking_for_a_first_slot_leaves_the_core_to_others(monkeypatch: pytest.MonkeyPatch) -> None:
    subject, pauses = policy(Cluster(monkeypatch, "")), list[float]()
    monkeypatch.setattr(time, "sleep", pauses.append)
    assert isinstance(subject.make_decision_for_non_running_worker_group(), NoopDecision)
    assert pauses == [scaling.PAUSE_SECONDS]
