"""The record of a run with faults passes the audit, and every change to it is found."""

from __future__ import annotations

from typing import Any

import pytest

from foundray.inspection.auditing.events import judge_events
from foundray.inspection.auditing.groups import groups_of, missing, placed
from foundray.inspection.auditing.lines import judge_line, unsound
from foundray.inspection.auditing.spikes import judge_spikes
from foundray.spec import Spec
from foundray.testing.records import event_at, step_records
from foundray.testing.specs import make_spec

Records = list[dict[str, Any]]


@pytest.fixture(scope="module")
def spec() -> Spec:
    made = make_spec()
    guard = made.guard.model_copy(update={"spike": 12.0, "roll_back": 10})
    train = made.train.model_copy(update={"steps": 60})
    return made.model_copy(update={"guard": guard, "train": train})


def lines(spec: Spec, first: int, last: int, since: float, workers: int, **fields: Any) -> Records:
    """Records of steps as a run of the spec writes them."""
    from foundray.training.step.schedule import lr_factor

    taken = spec.train.micro_batches
    return [
        record
        | {
            "tokens": record["step"] * spec.tokens_per_step,
            "tokens_per_s": float(spec.tokens_per_step),
            "lr": spec.optimizer.lr * lr_factor(spec.schedule, record["step"] - 1, spec.train.steps),
            "workers": workers,
            "takers": [[0, taken - 1], [workers - 1, 1]],
        }
        for record in step_records(first, last, since, **fields)
    ]


@pytest.fixture
def record(spec: Spec) -> tuple[Records, Records]:
    """(events, metrics) of a run whose group grows, breaks, rolls back from a spike, and is continued by another command."""
    started = {"device": "cpu", "state": "memory", "seconds": 0.1}
    events = [
        event_at(0, "command", workers=[1, 4], environment={}),
        event_at(1, "workers_started", step=0, workers=1, **started),
        event_at(11.5, "workers_started", step=10, workers=2, **started),
        event_at(25, "group_broken", step=20, reason="x"),
        event_at(26, "workers_started", step=18, workers=3, **started),
        event_at(37, "rolled_back", step=28, spike=28, to=20, passed_over=8),
        event_at(38, "workers_started", step=20, workers=3, **started),
        event_at(50, "checkpoint", step=30, bytes=1, seconds=0.1),
        event_at(1000, "command", workers=[1, 4], environment={}),
        event_at(1001, "workers_started", step=30, workers=2, **started),
        event_at(1035, "finished", step=60, weights_sha256="ab" * 32),
    ]
    metrics = [
        *lines(spec, 1, 10, 1, 1), *lines(spec, 11, 20, 11.5, 2), *lines(spec, 19, 27, 26, 3),
        *lines(spec, 21, 33, 38, 3, passed_over=8), *lines(spec, 31, 60, 1001, 2, passed_over=8),
    ]  # fmt: skip
    return events, metrics


def problems(events: Records, metrics: Records, spec: Spec) -> list[str]:
    """Problems found by every check that needs no data."""
    unfit = [text for one in metrics if (text := unsound(one))]
    found, misplaced = placed([one for one in metrics if not unsound(one)], groups_of(events))
    judged = [text for line in found for text in judge_line(line, spec)]
    last = {line.step: line for line in found}
    lacking = missing(step for step in range(1, spec.train.steps + 1) if step not in last)
    return [*unfit, *misplaced, *judged, *lacking, *judge_spikes(events, found, last, spec), *judge_events(events, found, spec)]


def test_a_run_with_faults_is_in_order(record: tuple[Records, Records], spec: Spec) -> None:
    assert problems(*record, spec) == []


def test_times_may_be_off_by_what_records_took_to_the_driver(record: tuple[Records, Records], spec: Spec) -> None:
    events, metrics = record
    for index in (9, 19, 28, 41):  # the last ones of groups are heard of after the next group began
        metrics[index] = metrics[index] | {"time": metrics[index]["time"] + 3}
    assert problems(events, metrics, spec) == []


@pytest.mark.parametrize(
    ("change", "finding"),
    [
        (lambda events, metrics: metrics.pop(3), "step 4 is not in the step log"),
        (lambda events, metrics: metrics.__delitem__(slice(45, 49)), "steps 34 to 37 are not in the step log"),
        (lambda events, metrics: metrics.insert(5, metrics[4]), "step 5 is recorded again"),
        (lambda events, metrics: metrics.insert(30, metrics[29]), "step 21 is recorded again"),
        (lambda events, metrics: metrics[5].update(step=8), "step 8 is recorded where step 6 belongs"),
        (lambda events, metrics: metrics[5].update(workers=2), "step 6 was computed by 2 workers, but the group had"),
        (lambda events, metrics: metrics[35].update(passed_over=0), "its data are 0 steps ahead, but the roll-backs give 8"),
        (lambda events, metrics: metrics[40].update(spike=True), "is recorded as a spike, but the run rolls back from spikes"),
        (lambda events, metrics: metrics[20].update(time=metrics[20]["time"] - 60), "step 19 is recorded"),
        (lambda events, metrics: metrics[-1].update(time=metrics[-1]["time"] + 60), "after the run's end"),
        (lambda events, metrics: events.pop(4), "step 19 is recorded again"),
        (lambda events, metrics: events[4].update(step=17), "step 19 is recorded again"),
        (lambda events, metrics: events[4].update(workers=2), "but the group had 2"),
        (lambda events, metrics: events[5].update(to=10), "the rule gives step 20 and an offset of 8"),
        (lambda events, metrics: events[5].update(passed_over=9), "the rule gives step 20 and an offset of 8"),
        (lambda events, metrics: events[7].update(step=70), "checkpoint: no step 70 is recorded"),
        (lambda events, metrics: events[-1].update(step=59), "finished: after step 59, but the run has 60"),
        (lambda events, metrics: events[3].update(time=events[3]["time"] + 600), "is recorded with an earlier time than"),
    ],
)  # fmt: skip
def test_what_the_order_of_things_does_not_allow_is_found(
    change: Any, finding: str, record: tuple[Records, Records], spec: Spec
) -> None:
    events, metrics = ([dict(one) for one in log] for log in record)
    change(events, metrics)
    found = problems(events, metrics, spec)
    assert any(finding in text for text in found), found
    if metrics != record[1]:
        assert len(found) <= 3, "one line that is changed is no flood of sentences"


@pytest.mark.parametrize(
    ("place", "event"),
    [
        (1, event_at(-60, "places", pool="", request="train-1")),  # earlier versions recorded its true time behind the command
        (5, event_at(11, "evaluated", step=10)),  # sent again by the next rank 0
        (4, event_at(5, "evaluated", step=5)),  # it waited for the next step, which took long
    ],
)
def test_what_is_recorded_late_has_its_own_time(
    place: int, event: dict[str, Any], record: tuple[Records, Records], spec: Spec
) -> None:
    events, metrics = record
    assert problems([*events[:place], event, *events[place:]], metrics, spec) == []


@pytest.mark.parametrize("start", [20, 23])
def test_a_group_whose_beginning_was_lost_with_its_rank_0_is_in_order(
    start: int, record: tuple[Records, Records], spec: Spec
) -> None:
    """Steps 21 to 23 were recorded, since the others sent them again; the next group begins there, or earlier."""
    events, metrics = record
    events[3]["time"] += 5
    events[4:5] = [event_at(30.5, "workers_started", step=start, workers=3, device="cpu", state="memory", seconds=0.1)]
    untold, rest = lines(spec, 21, 23, 26, 4), lines(spec, start + 1, 27, 30, 3)
    metrics[20:29] = [*untold, *rest]
    assert problems(events, metrics, spec) == []
    events.pop(3)
    assert any("computed by 4 workers" in text for text in problems(events, metrics, spec)), "no group broke"


def test_a_step_of_other_workers_before_a_break_is_found(record: tuple[Records, Records], spec: Spec) -> None:
    events, metrics = record
    metrics[15] = metrics[15] | {"workers": 3}
    assert any("step 16 was computed by 3 workers" in text for text in problems(events, metrics, spec))


@pytest.mark.parametrize(("workers", "step", "sound"), [(64, 7, False), (65, 7, True), (65, 100, False)])
def test_only_most_steps_of_a_large_group_may_have_no_takers(workers: int, step: int, sound: bool, spec: Spec) -> None:
    longer = spec.model_copy(update={"train": spec.train.model_copy(update={"steps": 100})})
    groups = groups_of([event_at(0, "workers_started", step=step - 1, workers=workers, state="storage")])
    (placed_line,), _ = placed([one | {"takers": []} for one in lines(longer, step, step, 0, workers)], groups)
    assert (judge_line(placed_line, longer) == []) == sound


@pytest.mark.parametrize("losses", [[2.0] * 30, [2.0] * 20 + [50.0] + [2.0] * 9])
def test_spikes_are_judged_once_more(losses: list[float], spec: Spec) -> None:
    alone = spec.model_copy(update={"guard": spec.guard.model_copy(update={"roll_back": None})})
    events = [event_at(0, "workers_started", step=0, workers=1, state="storage")]
    groups = groups_of(events)
    metrics = [one | {"loss": loss, "spike": loss > 9} for one, loss in zip(lines(spec, 1, 30, 0, 1), losses, strict=True)]

    def judged() -> list[str]:
        found = placed(metrics, groups)[0]
        return judge_spikes(events, found, {line.step: line for line in found}, alone)

    assert judged() == []
    metrics[20]["spike"] = not metrics[20]["spike"]
    assert len(judged()) == 1 and judged()[0].startswith("step 21 is ")
    events += [
        event_at(9, "workers_started", step=9, workers=1, state="storage"),
        event_at(9, "member_ready", member=1, node="ab"),
    ]
    assert judged() == [], "an earlier version's, which judged otherwise after a resume"
