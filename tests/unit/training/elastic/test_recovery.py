"""The state from which the next group starts after a break, and which worker holds whose replica."""

from __future__ import annotations

import pytest

from foundray.training.elastic.recovery import Source, StateShard, newest_complete, replica_ranks


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
        (["a", "a", "b", "b"], [2, 2, 0, 0]),
    ],
)
def test_a_replica_is_on_another_node_if_there_is_one(nodes: list[str], expected: list[int | None]) -> None:
    assert replica_ranks(nodes) == expected


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
