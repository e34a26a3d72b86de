"""Each step of a log becomes one point, whatever was computed again, and in whatever pieces the logs are read."""

from __future__ import annotations

from typing import Any

from foundray.contract.tracking import Point, Position
from foundray.testing.records import event_at, step_records
from foundray.tracking.points import Points

CUT = {"step": 33, "spike": 33, "to": 30, "passed_over": 3, "cut": "c0"}


def steps(points: list[Point]) -> list[int]:
    return [point.step for point in points if "train/loss" in point.values]


def evaluation(step: int, loss: float) -> dict[str, Any]:
    return event_at(step, "evaluated", step=step, val_loss=loss)


def test_steps_that_are_computed_again_are_one_point() -> None:
    subject = Points(Position(), None)
    subject.add_steps(step_records(1, 35, 0))
    first = subject.taken()
    subject.add_steps(step_records(21, 40, 50))
    assert steps(first) == list(range(1, 36)) and steps(subject.taken()) == [36, 37, 38, 39, 40]
    assert first[3].values["train/loss"] == 3.0 and first[3].position == Position(4, 0)


def test_steps_before_an_extension_that_are_computed_again_stay_and_a_note_says_so() -> None:
    subject = Points(Position(), None)
    subject.add_steps(step_records(1, 100, 0))
    subject.add_steps(step_records(61, 140, 200))
    subject.add_events([event_at(150, "extended", step=100, to=60, cut="c0", changed={})])
    subject.add_events([event_at(350, "extended", step=140, to=140, cut="c1", changed={})])
    points = subject.taken()
    assert steps(points) == list(range(1, 141))
    assert next(point.note for point in points if point.note) == (
        "extended; steps 61 to 100 are computed again, and are not sent again"
    )
    assert not any("101" in point.note or "141" in point.note for point in points)


def test_what_was_sent_is_left_out_when_the_logs_are_read_again() -> None:
    events = [event_at(0, "workers_started", step=0), evaluation(10, 3.0), event_at(11, "checkpoint"), evaluation(20, 2.0)]
    first = Points(Position(), None)
    first.add_steps(step_records(1, 15, 0))
    first.add_events(events[:2])
    sent = first.taken()[-1].position
    assert sent == Position(15, 2)
    again = Points(sent, None)
    again.add_steps(step_records(1, 20, 0))
    again.add_events(events)
    points = again.taken()
    assert steps(points) == [16, 17, 18, 19, 20]
    assert [point.values["validation/loss"] for point in points if "validation/loss" in point.values] == [2.0]


def test_steps_that_a_spike_can_undo_wait_until_it_cannot() -> None:
    subject = Points(Position(), 10)
    subject.add_steps(step_records(1, 33, 0))
    subject.add_events([evaluation(32, 9.0)])
    assert steps(subject.taken()) == list(range(1, 31))
    subject.add_events([event_at(33, "rolled_back", **CUT)])
    subject.add_steps(step_records(31, 45, 40, loss=0.5))
    subject.add_events([evaluation(32, 1.0)])
    points = subject.taken()
    assert steps(points) == list(range(31, 41)) and {p.values["train/loss"] for p in points if p.step < 41 and not p.note} == {
        0.5
    }
    assert [point.values["validation/loss"] for point in points if "validation/loss" in point.values] == [1.0]
    assert any("30" in point.note for point in points), "the roll-back is a note"
    subject.finish()
    assert steps(subject.taken()) == [41, 42, 43, 44, 45]


def test_a_spike_at_a_kept_state_undoes_the_steps_before_it() -> None:
    subject = Points(Position(), 10)
    subject.add_steps([*step_records(1, 19, 0), *step_records(20, 20, 19, spike=True)])
    assert steps(subject.taken()) == list(range(1, 11))


def test_every_point_moves_the_position_on() -> None:
    subject = Points(Position(), None)
    subject.add_events([event_at(0, "workers_started", step=0), evaluation(1, 1.0)])
    subject.add_steps(step_records(1, 3, 0))
    positions = [point.position.step + point.position.events for point in subject.taken()]
    assert positions == sorted(set(positions)) and len(positions) == 5
