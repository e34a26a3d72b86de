"""Up to which step two runs of different lengths are the same, and what a run is extended from."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from foundray.errors import InputError
from foundray.inspection.auditing.events import judge_events
from foundray.inspection.auditing.groups import groups_of, placed
from foundray.inspection.auditing.lines import judge_line
from foundray.runs.checkpoints import MANIFEST, place
from foundray.runs.extension import earlier_fingerprints, extensions, specs_of, unfinished
from foundray.runs.lineage import recorded
from foundray.runs.run import Run
from foundray.spec.length import with_steps
from foundray.testing.records import event_at, step_records
from foundray.testing.runs import run_with_records
from foundray.testing.specs import IMAGES, make_spec
from foundray.training.extending import RATE, TEACHER, agreement, extend
from foundray.training.step.schedule import lr_factor

WSD = {"schedule__warmup": None, "schedule__warmup_steps": 4, "schedule__decay": 0.2}
STARTED = {"device": "cpu", "state": "storage", "seconds": 0.1}


@pytest.mark.parametrize(
    ("schedule", "same"),
    [
        ({"kind": "wsd", "warmup_steps": 4, "decay": 0.2}, (81, RATE)),  # after 80 steps the factor is still 1
        ({"kind": "wsd", "warmup_steps": 4, "decay_steps": 10}, (91, RATE)),
        ({"kind": "wsd", "warmup": 0.04, "decay": 0.2}, (0, RATE)),
        ({"kind": "wsd", "warmup_steps": 4, "decay": 0.0}, (100, "")),
        ({"kind": "cosine", "warmup_steps": 4}, (5, RATE)),
        ({"kind": "constant", "warmup_steps": 4}, (100, "")),
    ],
)
def test_steps_that_two_lengths_have_in_common(schedule: dict[str, Any], same: tuple[int, str]) -> None:
    short = make_spec(schedule=schedule, train__steps=100)
    longer = with_steps(short, 200)
    assert agreement(short, longer) == agreement(longer, short) == same
    rates = [[lr_factor(spec.schedule, step, spec.train.steps) for step in range(100)] for spec in (short, longer)]
    assert rates[0][: same[0]] == rates[1][: same[0]]


@pytest.mark.parametrize(("start", "same"), [(0.9, (1, TEACHER)), (1.0, (81, RATE))])
def test_a_ramp_of_the_teachers_momentum_follows_the_length(start: float, same: tuple[int, str]) -> None:
    objective = {"objective": {"kind": "joint_embedding", "start_momentum": start}}
    spec = make_spec(**IMAGES | objective, train__steps=100, **WSD)
    assert agreement(spec, with_steps(spec, 200)) == same


def finished(storage: Path, checkpoints: list[int], **changes: Any) -> Run:
    """A run of 20 steps that is finished, with empty checkpoints."""
    spec = make_spec(train__steps=20, **{**WSD, **changes})
    rates = [spec.optimizer.lr * lr_factor(spec.schedule, step, 20) for step in range(20)]
    steps = [
        record | {"tokens": record["step"] * spec.tokens_per_step, "tokens_per_s": 320.0, "lr": lr, "takers": [[0, 5]]}
        for record, lr in zip(step_records(1, 20, 1), rates, strict=True)
    ]
    events = [
        event_at(0, "command", workers=[1, 1], environment={}),
        event_at(1, "workers_started", step=0, workers=steps[0]["workers"], **STARTED),
        event_at(30, "finished", step=20, weights_sha256="ab" * 32),
    ]
    run = run_with_records(storage, events, steps, train__steps=20, **{**WSD, **changes})
    for step in checkpoints:
        (place(run.checkpoints, step) / MANIFEST).write_text("{}")
    return run


def nothing() -> Any:
    raise AssertionError("the data are not needed")


def test_it_continues_from_the_last_checkpoint_before_the_decay(tmp_path: Path) -> None:
    run, said = finished(tmp_path, [8, 16, 17, 20]), list[str]()
    before = run.spec()
    extend(run, {"steps": 40}, nothing, said.append)
    assert said == ["extended to 40 steps: continues from step 17; 3 steps after it are computed again"]
    events = run.records("events.jsonl")
    (made,) = extensions(events)
    assert (made["step"], made["to"], made["trusted"]) == (20, 17, 17)
    assert made["changed"] == {"train.steps": [20, 40]}
    assert run.spec().train.steps == 40 and specs_of(run.spec(), events) == [before, run.spec()]
    assert earlier_fingerprints(events) == (before.fingerprint(),)
    facts = run.facts()
    assert (facts.state, facts.step, facts.checkpoint) == ("interrupted", 17, 17), "it is no longer finished"
    assert [cut.to for cut in recorded(events)] == [17]
    # The same again is no second extension.
    extend(run, {"steps": 40}, nothing, said.append)
    assert extensions(run.records("events.jsonl")) == [made] and "as asked" in said[-1]


def test_what_is_recorded_passes_the_audit_and_its_changes_do_not(tmp_path: Path) -> None:
    run = finished(tmp_path, [16])
    extend(run, {"steps": 40}, nothing, lambda line: None)
    events, spec = run.records("events.jsonl"), run.spec()
    lines, problems = placed(run.records("metrics.jsonl"), groups_of(events))
    specs = specs_of(spec, events)
    assert [*problems, *judge_events(events, lines, spec)] == []
    assert [text for line in lines for text in judge_line(line, specs[line.group.extensions])] == []
    assert any("the schedule gives" in text for line in lines for text in judge_line(line, spec)), "by the longer run's rates"
    for change in ({"trusted": 18}, {"to": 18}, {"fingerprint": "0" * 16}, {"changed": {"train.steps": [40, 40]}}):
        wrong = [event | change if event["event"] == "extended" else event for event in events]
        assert any(text.startswith("extended: ") for text in judge_events(wrong, lines, spec)), change


def test_a_warm_up_in_fractions_stays_as_long_as_it_was(tmp_path: Path) -> None:
    run, said = finished(tmp_path, [10, 20], schedule__warmup=0.2, schedule__warmup_steps=None), list[str]()
    extend(run, {"steps": 40}, nothing, said.append)
    assert "schedule.warmup is 0.2 of the run" in said[0] and "as schedule.warmup_steps: 4" in said[0]
    assert run.spec().fingerprint() == make_spec(train__steps=40, **WSD).fingerprint()


@pytest.mark.parametrize(
    ("changes", "checkpoints", "why"),
    [
        ({"schedule__kind": "cosine"}, [10, 20], "the learning rate of step 6 and later follows from the run's length"),
        ({}, [18, 20], "the learning rate of step 18 and later follows"),
    ],
)
def test_what_must_start_over_says_so_and_stays(changes: Any, checkpoints: list[int], why: str, tmp_path: Path) -> None:
    run = finished(tmp_path, checkpoints, **changes)
    before = {file: file.read_bytes() for file in tmp_path.rglob("*") if file.is_file()}
    with pytest.raises(InputError, match="costs the 20 steps done so far") as refused:
        extend(run, {"steps": 40}, nothing, lambda line: None)
    assert why in str(refused.value) and "\n" not in str(refused.value)
    assert {file: file.read_bytes() for file in tmp_path.rglob("*") if file.is_file()} == before


@pytest.mark.parametrize(
    ("length", "said"),
    [
        ({"steps": 20}, "has 20 steps, and 20 steps are no more"),
        ({"steps": -1}, "--steps -1: it must be a number above 0"),
        ({"steps": "24"}, "--steps 24: it must be a number above 0"),
        ({}, "one of --steps, --tokens and --epochs"),
        ({"steps": 30, "tokens": 7}, "one of --steps, --tokens and --epochs"),
    ],
)
def test_lengths_that_are_refused(length: dict[str, Any], said: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=said):
        extend(finished(tmp_path, [16]), length, nothing, lambda line: None)


def test_a_very_long_run_can_be_looked_at(tmp_path: Path) -> None:
    """What is counted follows from the steps that were recorded, not from those that are planned."""
    run = finished(tmp_path, [16, 20])
    extend(run, {"steps": 10**13}, nothing, lambda line: None)
    assert run.facts().step == 16 and run.spec().train.steps == 10**13


def test_an_extension_that_was_interrupted_is_completed(tmp_path: Path) -> None:
    run = finished(tmp_path, [16, 20])
    file = run.folder / "spec.yaml"
    old = file.read_text()
    extend(run, {"steps": 40}, nothing, lambda line: None)
    new = file.read_text()
    file.write_text(old)  # as if the command had ended between the record and the spec
    assert unfinished(run.spec(), run.records("events.jsonl"))
    extend(run, {"steps": 40}, nothing, lambda line: None)
    assert file.read_text() == new and len(extensions(run.records("events.jsonl"))) == 1
    assert unfinished(run.spec(), run.records("events.jsonl")) is None
