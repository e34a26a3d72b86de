"""Which workers are prestarted: only those whose slots Ray Train is certain to find, and not for longer than it takes."""

from __future__ import annotations

from collections import Counter
from types import SimpleNamespace
from typing import Any, cast

import pytest
import ray

from foundray.spec import PoolConfig
from foundray.testing.clock import SimulatedClock
from foundray.testing.specs import make_spec
from foundray.training.elastic import worker_pool
from foundray.training.elastic.prestart import certain_slots, slots_on_new_nodes
from foundray.training.elastic.worker_pool import NEW_NODE_SECONDS, WorkerPool
from foundray.training.slots.board import Slot


def found(free: dict[str, dict[str, float]], **pools: Any) -> dict[tuple[str, str], int]:
    """Number of slots by node and pool."""
    checked = {name: PoolConfig(**pool) for name, pool in pools.items()}
    return dict(Counter((slot.node, slot.pool) for slot in certain_slots(checked, free)))


def pool(fewest: int, most: int, **more: Any) -> dict[str, Any]:
    return {"workers": [fewest, most], "resources": {"CPU": 1}, **more}


def test_one_node_has_as_many_as_are_wanted_or_fit() -> None:
    assert found({"a": {"CPU": 2.0}}, run=pool(1, 1)) == {("a", "run"): 1}
    assert found({"a": {"CPU": 2.0}}, run=pool(1, 9)) == {("a", "run"): 2}
    assert found({"a": {"CPU": 2.0}}, run=pool(3, 3)) == {}, "Ray Train starts none either"
    thirds = {**pool(1, 9), "resources": {"CPU": 1 / 3}}
    assert found({"a": {"CPU": 1.0}}, run=thirds) == {("a", "run"): 3}


def test_several_nodes_have_some_only_if_all_that_fit_are_wanted() -> None:
    nodes = {"head": {"memory": 1e9}, "a": {"CPU": 1.0}, "b": {"CPU": 1.0}}
    assert found(nodes, run=pool(1, 2)) == {("a", "run"): 1, ("b", "run"): 1}
    assert found(nodes, run=pool(1, 1)) == {}, "it could be either"


def test_what_one_pool_takes_is_not_for_the_next() -> None:
    nodes = {"a": {"CPU": 2.0, "big": 1.0}, "b": {"CPU": 1.0}}
    big = pool(1, 1, resources={"CPU": 2, "big": 1})
    assert found(nodes, big=big, rest=pool(1, 4)) == {("a", "big"): 1, ("b", "rest"): 1}


def test_who_gets_which_gpu_or_label_is_not_known() -> None:
    nodes = {"a": {"CPU": 2.0, "GPU": 2.0}}
    assert found(nodes, run=pool(1, 2, resources={"CPU": 1, "GPU": 1})) == {}
    assert found(nodes, run=pool(1, 2, labels={"zone": "here"})) == {}


def test_new_nodes_have_some_only_if_all_that_fit_are_wanted() -> None:
    pools = {"": PoolConfig(**pool(1, 4))}

    def nodes(workers: int, free: dict[str, dict[str, float]]) -> list[str]:
        return [slot.node for slot in slots_on_new_nodes(pools, {"": workers}, free)]

    assert nodes(2, {"c": {"CPU": 1.0}}) == ["c"]
    assert nodes(2, {"c": {"CPU": 8.0}}) == ["c", "c"]
    assert nodes(3, {"c": {"CPU": 1.0}, "d": {"CPU": 1.0}}) == [], "it could be either"
    assert nodes(4, {"c": {"CPU": 1.0}}) == []


class Nodes:
    """A pool of workers on nodes with room for one each. Nodes in `held` have their slot held by Ray Train."""

    def __init__(self, patch: pytest.MonkeyPatch, nodes: str, most: int):
        self.joined, self.killed = "", list[Any]()
        self.clock = SimulatedClock()
        self.clock.install(patch.setattr)
        call = SimpleNamespace(remote=lambda *_: None)
        patch.setattr(worker_pool, "start_worker", lambda slot: SimpleNamespace(slot=slot, begin=call, watch=call))
        patch.setattr(worker_pool, "whole_nodes", lambda: {node: {"CPU": 1.0} for node in nodes + self.joined})
        patch.setattr(worker_pool, "free_resources", lambda: {node: {"CPU": 1.0} for node in nodes})
        patch.setattr(worker_pool, "draining_nodes", set)
        patch.setattr(worker_pool, "node_name", str)
        patch.setattr(ray, "kill", self.killed.append)
        self.pool = WorkerPool(cast(Any, None), make_spec(scale={"workers": [1, most], "resources": {"CPU": 1}}), print)

    def reconcile(self, held: str) -> dict[str, bool]:
        """Nodes of the workers, and whether their slot is held."""
        self.pool.reconcile([Slot(node, (), "") for node in held], [])
        return {one.slot.node: one.slot_held_since is not None for one in self.pool.workers.values()}


def test_a_worker_on_a_new_node_warms_up_before_its_slot_is_held(monkeypatch: pytest.MonkeyPatch) -> None:
    nodes = Nodes(monkeypatch, "ab", most=4)
    nodes.pool.prefetch()
    assert nodes.reconcile("ab") == {"a": True, "b": True}
    nodes.joined = "c"
    assert nodes.reconcile("ab") == {"a": True, "b": True, "c": False}
    assert not nodes.pool.may_stay(nodes.pool.workers[3])
    assert nodes.reconcile("abc") == {"a": True, "b": True, "c": True}
    nodes.clock.advance(NEW_NODE_SECONDS + 1)
    assert nodes.reconcile("abc") == {"a": True, "b": True, "c": True}
    assert nodes.pool.last_number == 3 and not nodes.killed


def test_it_is_killed_if_its_slot_is_not_held_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    nodes = Nodes(monkeypatch, "a", most=4)
    nodes.pool.prefetch()
    nodes.reconcile("a")
    nodes.joined = "c"
    assert nodes.reconcile("a") == {"a": True, "c": False}
    nodes.clock.advance(NEW_NODE_SECONDS + 1)
    assert nodes.reconcile("a") == {"a": True}
    assert nodes.reconcile("a") == {"a": True}, "once"
    nodes.reconcile("ac")
    assert nodes.reconcile("ac") == {"a": True, "c": True}, "it is started when Ray Train holds the slot after all"


def test_no_worker_is_started_on_new_nodes_beyond_the_number_wanted(monkeypatch: pytest.MonkeyPatch) -> None:
    nodes = Nodes(monkeypatch, "a", most=1)
    nodes.pool.prefetch()
    nodes.reconcile("a")
    nodes.joined = "c"
    assert nodes.reconcile("a") == {"a": True}
