"""Which states are usable after roll-backs and losses of trust."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from foundray.runs.checkpoints import MANIFEST, best_step, completed_steps, is_undone, losses_of, newest_step, place
from foundray.runs.lineage import Lineage, cut, evaluations, recorded, under, undone, usable
from foundray.storage import Store
from foundray.training.telemetry.recorder import evaluated_until


def lineage_of(*limits: int) -> Lineage:
    """Cuts to these steps, one after another."""
    made: Lineage = ()
    for to in limits:
        made += (cut(made, "rolled_back", to, to + 4),)
    return made


def test_a_state_is_usable_up_to_the_lowest_later_cut() -> None:
    whole = lineage_of(90, 60, 80)
    assert [one.to for one in whole] == [90, 60, 80]
    for cuts, limit in ((0, 60), (1, 60), (2, 80), (3, 10**9)):
        made_under = under(whole[:cuts])
        assert usable(limit, made_under, whole) and not undone(limit, made_under, whole)
        assert cuts == 3 or (undone(limit + 1, made_under, whole) and not usable(limit + 1, made_under, whole))


def test_a_state_of_another_lineage_is_neither_usable_nor_undone() -> None:
    mine, other = lineage_of(90, 60), lineage_of(80, 60)
    assert mine[1].to == other[1].to and mine[1].id != other[1].id, "an id stands for all cuts up to it"
    assert not usable(1, under(other), mine) and not undone(10**9, under(other), mine)


@dataclass
class State:
    step: int
    made_under: str
    alive: bool = True
    """Whether no cut since has undone it."""


@given(st.lists(st.one_of(st.just(None), st.integers(0, 30)), max_size=40))
def test_the_rule_gives_what_deleting_at_once_would(history: list[int | None]) -> None:
    """A run makes states step by step (None) and goes back to earlier ones; the reference marks what each cut undoes."""
    states, made, step = [State(0, "")], Lineage(), 0
    for to in history:
        if to is None:
            step += 1
            states.append(State(step, under(made)))
        else:
            step = min(step, to)
            made += (cut(made, "rolled_back", step, step),)
            for state in states:
                state.alive = state.alive and state.step <= step
    for state in states:
        assert usable(state.step, state.made_under, made) is state.alive
        assert undone(state.step, state.made_under, made) is not state.alive


def test_events_give_the_cuts_and_those_of_earlier_versions_do_not() -> None:
    (made,) = lineage_of(90)
    events = [
        {"event": "rolled_back", "step": 50, "spike": 50, "to": 40, "passed_over": 10},
        {"event": "rolled_back", "step": 94, "spike": 94, "to": 90, "passed_over": 14, "cut": made.id},
        {"event": "left_out", "step": 99, "node": "n", "reason": "x"},
    ]
    assert recorded(events) == (made,)


def test_evaluations_that_stand() -> None:
    """A cut that two commands have recorded undoes what was before it once."""
    cut = {"event": "rolled_back", "step": 15, "to": 10, "cut": "abc"}
    found = [{"event": "evaluated", "step": step, "val_loss": float(step)} for step in (5, 12, 20)]
    events = [*found[:2], cut, found[2], cut]
    assert evaluations(events) == [found[0], found[2]]
    assert losses_of(events) == {5: 5.0, 20: 20.0} and evaluated_until(events, 1) == 20


def test_undone_checkpoints_do_not_count_although_they_are_there(tmp_path: Path) -> None:
    folder, made = Store.at(tmp_path), lineage_of(90)
    for step, made_under in ((80, ""), (104, ""), (92, made[0].id), (200, "backup")):
        (place(folder, step, made_under) / MANIFEST).write_text("{}")
    assert completed_steps(folder) == [104, 80]
    assert completed_steps(folder, made) == [92, 80]
    assert newest_step(folder, made) == 92
    assert [is_undone(place(folder, 200, "backup"), made), is_undone(place(folder, 104), made)] == [False, True]
    events = [
        {"event": "evaluated", "step": 104, "val_loss": 1.0},
        {"event": "rolled_back", "step": 104, "spike": 104, "to": 90, "passed_over": 14, "cut": made[0].id},
        {"event": "evaluated", "step": 80, "val_loss": 3.0},
        {"event": "evaluated", "step": 92, "val_loss": 2.0},
    ]
    assert best_step(folder, events) == 92
