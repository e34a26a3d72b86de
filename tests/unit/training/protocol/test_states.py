"""The state from which the next group starts after a break, and which worker holds whose replica."""

from __future__ import annotations

import math
from collections import Counter
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from foundray.training.protocol.states import Source, StateShard, newest_complete, replica_ranks


def shards(step: int, generation: int, *ranges: tuple[int, int]) -> list[StateShard]:
    return [StateShard(step, generation, *blocks) for blocks in ranges]


def test_the_newest_complete_step_wins_no_matter_who_holds_it() -> None:
    live = shards(17, 1, (0, 4)), shards(17, 1, (4, 8))
    replicated = shards(10, 1, (0, 4), (8, 10)), shards(10, 1, (0, 4), (4, 8))
    held = {0: live[0] + replicated[0], 1: live[1] + replicated[1]}
    assert newest_complete(held, 10) == Source(10, ((0, replicated[0][0]), (1, replicated[1][1]), (0, replicated[0][1])))
    held[2] = shards(17, 1, (8, 10))
    found = newest_complete(held, 10)
    assert found
    assert (found.step, [holder for holder, _ in found.shards]) == (17, [0, 1, 2])


def test_two_groups_states_are_not_mixed() -> None:
    held = {0: shards(10, 1, (0, 5)), 1: shards(10, 2, (5, 10))}
    assert newest_complete(held, 10) is None


def test_overlapping_shards_cover_the_state_and_a_gap_does_not() -> None:
    held = {0: shards(4, 1, (0, 6)), 1: shards(4, 1, (3, 10), (0, 3))}
    found = newest_complete(held, 10)
    assert found
    assert [(shard.start, shard.stop) for _, shard in found.shards] == [(0, 6), (3, 10)]
    assert newest_complete({0: shards(4, 1, (0, 5), (6, 10))}, 10) is None
    assert newest_complete({0: shards(4, 1, (0, 5))}, 10) is None
    assert newest_complete({}, 10) is None


@pytest.mark.parametrize(
    ("nodes", "expected"),
    [
        (["a"], [None]),
        (["a", "a"], [1, 0]),
        (["a", "b"], [1, 0]),
        (["a", "a", "b"], [2, 2, 0]),
        (["a", "b", "c", "d"], [1, 2, 3, 0]),
        (["a", "a", "b", "b"], [2, 3, 0, 1]),
        (["a", "b", "a", "b"], [1, 0, 3, 2]),
        (["a", "a", "a", "a", "b", "b"], [4, 5, 4, 5, 0, 1]),
        (["a", "a", "b", "b", "c", "c"], [2, 3, 4, 5, 0, 1]),
    ],
)
def test_a_replica_is_on_another_node_if_there_is_one(nodes: list[str], expected: list[int | None]) -> None:
    assert replica_ranks(nodes) == expected


@given(st.lists(st.integers(1, 9), min_size=1, max_size=8), st.randoms(use_true_random=False))
def test_replicas_are_on_other_nodes_and_spread_equally(sizes: list[int], random: Random) -> None:
    """For nodes of any sizes, with their workers' ranks in any order."""
    nodes = [f"node-{index}" for index, size in enumerate(sizes) for _ in range(size)]
    random.shuffle(nodes)
    holders = replica_ranks(nodes)
    assert (None in holders) == (len(nodes) == 1)
    pairs = [(rank, holder) for rank, holder in enumerate(holders) if holder is not None]
    assert all(rank != holder for rank, holder in pairs)
    assert len(sizes) == 1 or all(nodes[rank] != nodes[holder] for rank, holder in pairs)
    largest, others = max(sizes), len(nodes) - max(sizes)
    most = max(Counter(holder for _, holder in pairs).values(), default=0)
    assert most <= (max(1, math.ceil(largest / others)) if others else 1), "as few each as there can be"


class Counted(str):
    """A node's name that counts how often it is compared or hashed."""

    looks = 0

    def __eq__(self, other: object) -> bool:
        Counted.looks += 1
        return str.__eq__(self, other)

    def __hash__(self) -> int:
        Counted.looks += 1
        return str.__hash__(self)


@pytest.mark.parametrize("per_node", [8, 500])
def test_choosing_holders_looks_at_each_worker_a_few_times(per_node: int) -> None:
    nodes = [Counted(f"node-{rank // per_node}") for rank in range(2000)]
    Counted.looks = 0
    replica_ranks(nodes)
    assert Counted.looks < 5 * len(nodes)


class Watched(StateShard):
    """A shard that counts how often its start is read."""

    looks = 0

    def __getattribute__(self, name: str) -> object:
        Watched.looks += name == "start"
        return super().__getattribute__(name)


def test_covering_the_blocks_looks_at_each_shard_a_few_times() -> None:
    held = {rank: [Watched(10, 1, rank, rank + 1)] for rank in range(2000)}
    Watched.looks = 0
    found = newest_complete(held, 2000)
    assert found and len(found.shards) == 2000
    assert Watched.looks < 5 * 2000


@pytest.mark.parametrize("world", range(2, 7))
def test_any_node_may_be_lost(world: int) -> None:
    """With a shard and its replica on two nodes, the state survives the loss of either."""
    nodes = [f"node-{rank * 3 // world}" for rank in range(world)]
    own = [StateShard(10, 1, rank, rank + 1) for rank in range(world)]
    held = {rank: [own[rank]] for rank in range(world)}
    for rank, replica_rank in enumerate(replica_ranks(nodes)):
        assert replica_rank is not None
        held[replica_rank].append(own[rank])
    for lost in set(nodes):
        left = {rank: found for rank, found in held.items() if nodes[rank] != lost}
        assert newest_complete(left, world)
