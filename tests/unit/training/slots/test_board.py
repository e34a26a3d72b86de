"""The board: which slots are held, and how often their holders call."""

from __future__ import annotations

import heapq

import pytest

from foundray.testing.clock import SimulatedClock
from foundray.training.slots.board import HEARTBEATS_PER_SECOND, _Board
from foundray.training.slots.slot import Slot


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> SimulatedClock:
    clock = SimulatedClock()
    clock.install(monkeypatch.setattr)
    return clock


def slot(node: str = "a", pool: str = "") -> Slot:
    return Slot(node, (), pool)


@pytest.mark.usefixtures("clock")
def test_one_heartbeat_counts_for_all_slots_of_a_process() -> None:
    board = _Board()
    assert board.heartbeat("", 0, slot("a"), 3) == 1.0
    assert board.heartbeat("", 1, slot("b"), 3) == 1.0
    assert [held.node for held in board.take()[1]] == ["a"] * 3 + ["b"] * 3


@pytest.mark.usefixtures("clock")
def test_a_new_groups_slots_replace_those_of_the_same_pool_and_number() -> None:
    board = _Board()
    board.heartbeat("x", 0, slot("a", "x"), 1)
    board.heartbeat("y", 0, slot("b", "y"), 1)
    board.heartbeat("x", 0, slot("c", "x"), 1)
    assert [held.node for held in board.take()[1]] == ["c", "b"]


@pytest.mark.usefixtures("clock")
def test_a_node_does_not_count_twice_while_ray_train_changes_groups() -> None:
    """The new group may number the same nodes in another order, before the old one's slots are lost for want of heartbeats."""
    board = _Board()
    for rank, node in enumerate("ab"):
        board.heartbeat("", rank, slot(node), 1, "first")
    board.heartbeat("other", 0, slot("d", "other"), 1, "another")
    board.heartbeat("", 0, slot("b"), 1, "second")
    assert sorted(held.node for held in board.take()[1]) == ["b", "d"]
    for rank, node in ((1, "c"), (2, "a")):
        board.heartbeat("", rank, slot(node), 1, "second")
    assert sorted(held.node for held in board.take()[1]) == ["a", "b", "c", "d"]
    assert board.heartbeat("", 0, slot("a"), 1, "first"), "a late one of the old group"
    assert sorted(held.node for held in board.take()[1]) == ["a", "b", "c", "d"]


def test_a_silent_process_has_lost_its_slots(clock: SimulatedClock) -> None:
    board = _Board()
    board.heartbeat("", 0, slot(), 2)
    clock.advance(4.9)
    assert len(board.take()[1]) == 2
    clock.advance(0.2)
    assert board.take()[1] == []


@pytest.mark.usefixtures("clock")
def test_a_closed_board_asks_the_holders_to_exit() -> None:
    board = _Board()
    board.close()
    assert not board.heartbeat("", 0, slot(), 1)


@pytest.mark.parametrize("holders", [1, 150, 2000])
def test_calls_do_not_grow_with_the_holders_and_none_is_lost(holders: int, clock: SimulatedClock) -> None:
    """Each calls again when the board said, or nearly as late as it may."""
    board, calls = _Board(), 0
    due = [(clock.monotonic(), rank) for rank in range(holders)]
    began = clock.monotonic()
    while due[0][0] < began + 40:
        at, rank = heapq.heappop(due)
        clock.advance(max(0.0, at - clock.monotonic()))
        seconds = board.heartbeat("", rank, slot(), 1)
        calls += at >= began + 20
        late = 0.9 * seconds if rank % 10 == 0 else 0.0
        heapq.heappush(due, (at + seconds + late, rank))
    assert len(board.take()[1]) == holders
    assert calls <= 20 * 1.01 * HEARTBEATS_PER_SECOND
