"""Which states a worker holds: those that the next group may need, and few others."""

from __future__ import annotations

from foundray.runs.lineage import Cut
from foundray.training.elastic.replicas import STATES_KEPT, Replicas
from foundray.training.protocol.states import StateShard


def kept(replicas: Replicas[str], *steps: int, generation: int = 1, made_under: str = "") -> list[int]:
    """Keep a shard of each of these steps; returns the steps that are held."""
    for step in steps:
        replicas.keep(StateShard(step, generation, 0, 3, (), made_under), f"state {step}")
    return [shard.step for shard in replicas.shards()]


def test_the_newest_states_are_kept() -> None:
    assert kept(Replicas(), 1, 2, 3, 4, 5) == [3, 4, 5]
    assert STATES_KEPT == 3


def test_a_state_that_a_group_was_ordered_to_start_from_is_kept_until_another_is_whole() -> None:
    """Groups that break while they join leave incomplete states."""
    replicas = Replicas[str]()
    kept(replicas, 4)
    replicas.start_from((1, 4), ())
    for generation in range(2, 8):
        kept(replicas, 5, generation=generation)
    assert 4 in kept(replicas, 6, generation=8)
    replicas.whole((8, 6))
    assert 4 not in kept(replicas, 7, generation=8)
    assert 6 in kept(replicas, 8, 9, 10, generation=8), "and then that one"


def test_a_lone_workers_states_need_no_pin() -> None:
    replicas = Replicas[str]()
    kept(replicas, 4)
    replicas.start_from((1, 4), ())
    replicas.whole(None)
    assert kept(replicas, 5, 6, 7) == [5, 6, 7]


def test_the_newest_state_to_roll_back_to_is_kept() -> None:
    assert kept(Replicas(roll_back=4), 3, 4, 5, 6, 7) == [4, 5, 6, 7]
    assert kept(Replicas(roll_back=4), 4, 8, 9, 10, 11) == [8, 9, 10, 11]


def test_states_that_a_cut_has_undone_are_dropped_with_the_order() -> None:
    replicas = Replicas[str]()
    kept(replicas, 4, 6)
    cut = Cut("a1b2", 4)
    replicas.start_from((1, 4), (cut,))
    assert [shard.step for shard in replicas.shards()] == [4]
    assert kept(replicas, 6, made_under="a1b2") == [4, 6]
    assert replicas.get(replicas.shards()[-1]) == "state 6"


def test_its_own_newest_shard_is_known() -> None:
    replicas = Replicas[str]()
    own = StateShard(4, 1, 0, 3)
    replicas.keep(own, "own", own=True)
    kept(replicas, 5)
    assert replicas.own == own
