"""The state to which a run returns after a loss spike, and the data that follow: the same for any number of workers."""

from __future__ import annotations

import pytest

from foundray.training.rollback import RollBack, appended, next_turn, passed_over, recorded, roll_back, trusted, undone_to


def test_the_data_after_the_spike_follow_the_state_before_it() -> None:
    first = roll_back((), spike=57, every=20)
    assert first == RollBack(spike=57, to=40, passed_over=17)
    # Step 41 comes after 40 others, and trains on what the 58th would have: after the spike's.
    assert 40 + passed_over((first,), 40) == 57
    assert passed_over((first,), 39) == 0
    assert (next_turn((first,), 12), next_turn((first,), 40)) == (40, None)


def test_roll_backs_add_up_and_may_go_to_one_state_twice() -> None:
    turns = appended((), roll_back((), 57, 20))
    turns = appended(turns, roll_back(turns, 45, 20))  # again a spike, at data step 44 + 17 = 61
    assert turns[-1] == RollBack(45, 40, 22)
    assert 40 + passed_over(turns, 40) == 44 + 17 + 1
    turns = appended(turns, roll_back(turns, 90, 20))
    assert [turn.to for turn in turns] == [40, 40, 80]
    used = [step + passed_over(turns, step) for step in range(120)]
    assert used == sorted(set(used)), "no data step twice"
    assert appended(turns, RollBack(30, 20, 10)) == (RollBack(30, 20, 10),)


@pytest.mark.parametrize("spike", [20, 21])
def test_the_state_returned_to_lies_before_the_spike(spike: int) -> None:
    assert roll_back((), spike, 20).to == (0 if spike == 20 else 20)


def test_they_are_read_from_the_record() -> None:
    turn = RollBack(57, 40, 17)
    events = [{"event": "evaluated", "step": 50}, {"event": "rolled_back", "step": 57, **turn.facts()}]
    assert recorded(events) == (turn,)


def test_what_is_recorded_after_the_end_and_before_another_group_does_not_count() -> None:
    """A command that was frozen while another took the run over, and finished it, may record it."""
    turn = {"event": "rolled_back", "step": 57, "cut": "a", **RollBack(57, 40, 17).facts()}
    assert recorded([{"event": "finished", "step": 100}, turn]) == ()
    extended = [{"event": "finished", "step": 100}, {"event": "workers_started", "step": 50}, turn]
    assert recorded(extended) == (RollBack(57, 40, 17),)


def test_a_loss_of_trust_voids_what_was_decided_after_it() -> None:
    """The spike may have been an error of the node that is left out; states made after that roll-back are void as well."""
    early, late = RollBack(57, 40, 17), RollBack(104, 90, 31)
    assert trusted((early, late), 100) == (early,)
    assert undone_to((early, late), 100) == 90
    assert undone_to((early,), 100) == 100
    events = [
        *({"event": "rolled_back", "step": turn.spike, "cut": str(turn), **turn.facts()} for turn in (early, late)),
        {"event": "left_out", "step": 117, "node": "n", "reason": "r", "trusted": 100, "to": 90, "cut": "y"},
    ]
    assert recorded(events) == (early,)
    assert recorded([*events, events[0]]) == (early,), "the same cut by another command"
    assert recorded([*events[:2], {"event": "left_out", "step": 117, "node": "n", "reason": "r"}]) == (early, late)
