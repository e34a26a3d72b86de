"""Which workers are prestarted: only those whose slots Ray Train is certain to find."""

from __future__ import annotations

from collections import Counter
from typing import Any

from foundray.spec import PoolConfig
from foundray.training.elastic.prestart import certain_slots, slots_on_new_nodes


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
