"""Which state a broken group goes on from, and who mirrors whom."""

from __future__ import annotations

import pytest

from foundray.training.elastic.recovery import Source, StateShard, buddies, newest_whole


def pieces(step: int, generation: int, *ranges: tuple[int, int]) -> list[StateShard]:
    return [StateShard(step, generation, *blocks) for blocks in ranges]


def test_the_newest_step_that_is_whole_wins_whoever_holds_it() -> None:
    live = pieces(17, 1, (0, 4)), pieces(17, 1, (4, 8))
    mirrored = pieces(10, 1, (0, 4), (8, 10)), pieces(10, 1, (0, 4), (4, 8))
    held = {0: live[0] + mirrored[0], 1: live[1] + mirrored[1]}
    assert newest_whole(held, 10) == Source(10, ((0, mirrored[0][0]), (1, mirrored[1][1]), (0, mirrored[0][1])))
    held[2] = pieces(17, 1, (8, 10))
    found = newest_whole(held, 10)
    assert found
    assert (found.step, [holder for holder, _ in found.pieces]) == (17, [0, 1, 2])


def test_two_groups_states_are_not_mixed() -> None:
    held = {0: pieces(10, 1, (0, 5)), 1: pieces(10, 2, (5, 10))}
    assert newest_whole(held, 10) is None


def test_overlapping_pieces_cover_too_and_a_gap_does_not() -> None:
    held = {0: pieces(4, 1, (0, 6)), 1: pieces(4, 1, (3, 10), (0, 3))}
    found = newest_whole(held, 10)
    assert found
    assert [(p.start, p.stop) for _, p in found.pieces] == [(0, 6), (3, 10)]
    assert newest_whole({0: pieces(4, 1, (0, 5), (6, 10))}, 10) is None
    assert newest_whole({0: pieces(4, 1, (0, 5))}, 10) is None
    assert newest_whole({}, 10) is None


@pytest.mark.parametrize(
    ("nodes", "mirrored_by"),
    [
        (["a"], [None]),
        (["a", "a"], [1, 0]),
        (["a", "b"], [1, 0]),
        (["a", "a", "b"], [2, 2, 0]),
        (["a", "b", "c", "d"], [1, 2, 3, 0]),
        (["a", "a", "b", "b"], [2, 2, 0, 0]),
    ],
)
def test_a_piece_is_mirrored_on_another_node_where_there_is_one(nodes: list[str], mirrored_by: list[int | None]) -> None:
    assert buddies(nodes) == mirrored_by


@pytest.mark.parametrize("world", range(2, 7))
def test_any_node_may_be_lost(world: int) -> None:
    """With a piece and its mirror on two nodes, what is left after the loss of one node is whole."""
    nodes = [f"node-{rank * 3 // world}" for rank in range(world)]
    own = [StateShard(10, 1, rank, rank + 1) for rank in range(world)]
    held = {rank: [own[rank]] for rank in range(world)}
    for rank, mirror in enumerate(buddies(nodes)):
        assert mirror is not None
        held[mirror].append(own[rank])
    for lost in set(nodes):
        left = {rank: found for rank, found in held.items() if nodes[rank] != lost}
        assert newest_whole(left, world)
