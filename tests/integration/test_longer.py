"""A run that is made longer has the bits of one that was planned so long, on real Ray."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from tests.command import foundray_here

import foundray as api
from foundray.runs.facts import Facts
from foundray.runs.run import Run

pytestmark = pytest.mark.usefixtures("own_ray")

PER_STEP = 5 * 2 * 32
PLANNED = {"train.steps": 24, "schedule": {"warmup_steps": 1, "decay": 0.25}, "train.checkpoint_every": 5}


@pytest.fixture(scope="module")
def short(shared_spec: Path) -> Facts:
    """A run of 12 steps whose warm-up, a tenth of them, is one step."""
    begun = {**PLANNED, "name": "longer", "schedule": {"warmup": 0.1, "decay": 0.25}}
    return api.train(shared_spec, {**begun, "train.steps": 12})


@pytest.mark.thorough
def test_a_branch_that_changes_nothing_is_its_parent(short: Facts) -> None:
    assert api.branch(short.run, 9, {"name": "same"}).weights_sha256 == short.weights_sha256


def test_a_branch_is_audited_and_its_parent_may_go(short: Facts) -> None:
    changes = {"name": "colder", "train.steps": 16, "schedule.decay_steps": 6, "data.sources.0.weight": 2}
    made = api.branch(short.run, 9, changes)
    assert (made.state, made.step) == ("finished", 16) and made.branch_from and made.branch_from["step"] == 9
    found = api.audit(made.run)
    assert (found.steps, found.problems) == (7, [])
    assert "start     the state of" in foundray_here("status", made.run).out
    assert "it was done by" in foundray_here("samples", made.run, "--step", "3").refusal
    assert api.report([made.run]).endswith("report.html")


def test_an_extended_run_is_the_run_planned_longer(short: Facts, shared_spec: Path) -> None:
    planned = api.train(shared_spec, {**PLANNED, "name": "planned"})
    assert (short.step, short.weights_sha256 == planned.weights_sha256) == (12, False)
    # Extended twice, in tokens and in steps; the first time on two workers.
    said: list[str] = []
    fewer = {"scale.resources.CPU": 0.5, "scale.workers": 2}
    middle = api.extend(short.run, tokens=20 * PER_STEP, overrides=fewer, report=said.append)
    assert middle.step == 20 and "extended to 20 steps: continues from step 10; 2 steps after it are computed again" in said
    longer = api.extend(short.run, steps=24)
    assert longer.weights_sha256 == planned.weights_sha256
    run = Run.open(short.run)
    assert run.spec().fingerprint() == Run.open(planned.run).spec().fingerprint()
    # Its record is whole, and every verb takes it.
    assert api.audit(short.run).problems == []
    assert [event["to"] for event in run.records("events.jsonl") if event["event"] == "extended"] == [10, 15]
    assert "extended to 24 steps, on from step 15" in foundray_here("logs", short.run).out
    assert "finished, step 24 of 24" in foundray_here("status", short.run).out
    assert "is finished" in foundray_here("resume", short.run).out
    assert api.report([short.run]).endswith("report.html")
    refusal = foundray_here("extend", short.run, "--steps", "20").refusal
    assert "has 24 steps, and 20 steps are no more" in refusal


EARLY = {
    "train.steps": None, "train.epochs": 0.04, "train.evaluate_every": 4,
    "train.stop_early": {"patience": 2, "min_delta": 5.0},
}  # fmt: skip


class Early(NamedTuple):
    """A run that stops early, at whose end it is judged on a task that is not due otherwise."""

    facts: Facts
    changes: dict[str, Any]
    said: list[str]


@pytest.fixture(scope="module")
def early(shared_spec: Path, tmp_path_factory: pytest.TempPathFactory) -> Early:
    pairs = tmp_path_factory.mktemp("early") / "pairs.jsonl"
    pairs.write_text('{"good": "ab", "bad": "ba"}\n')
    changes = {**EARLY, "evaluate.tasks": {"pairs": {"path": str(pairs), "every": 8}}}
    said: list[str] = []
    begun = {**changes, "name": "early", "train.checkpoint_every": 100}
    return Early(api.train(shared_spec, begun, report=said.append), changes, said)


def test_a_run_whose_length_the_data_resolve_stops_early(early: Early, shared_spec: Path) -> None:
    alone, changes, said = early
    planned = Run.open(alone.run).spec().train.steps
    assert planned > 24
    assert any(line.startswith("train.epochs: 0.04 of") and line.endswith(f"are {planned} steps") for line in said), said
    # The first loss is the best so far, and no later one is 5 nats lower.
    assert (alone.state, alone.step) == ("finished", 12)
    assert alone.ended_early and "train.stop_early: 2 evaluations in a row without improvement" in alone.ended_early
    run = Run.open(alone.run)
    evaluations = [event for event in run.records("events.jsonl") if event["event"] == "evaluated"]
    assert [event["step"] for event in evaluations if event.get("tasks")] == [8, 12]
    assert run.checkpoint_step("best") in (4, 8, 12)
    assert api.audit(alone.run).problems == []
    assert "ended     train.stop_early" in foundray_here("status", alone.run).out
    assert "a longer run would, too" in foundray_here("extend", alone.run, "--steps", "80").refusal
    again = api.train(shared_spec, {**changes, "name": "early", "train.checkpoint_every": 100}, report=said.append)
    assert again.weights_sha256 == alone.weights_sha256 and said[-1].startswith("early is finished")


@pytest.mark.thorough
def test_it_stops_at_one_step_however_it_is_computed(early: Early, shared_spec: Path) -> None:
    alone, run = early.facts, Run.open(early.facts.run)
    two = api.train(shared_spec, {**early.changes, "name": "early-2", "scale.resources.CPU": 0.5, "scale.workers": 2})
    assert (two.step, two.weights_sha256) == (alone.step, alone.weights_sha256)
    # The driver dies after the evaluation that ends the run: what continues ends there, too.
    events = run.records("events.jsonl")
    kept = [event for event in events if not (event["event"] == "finished" or event.get("step") == 12)]
    last = next(event for event in events if event["event"] == "evaluated" and event["step"] == 12)
    (run.folder / "events.jsonl").write_text("".join(json.dumps(event) + "\n" for event in [*kept, last]))
    (run.checkpoints / "step-00000012" / "manifest.json").delete_file()
    resumed = api.resume(alone.run)
    assert (resumed.step, resumed.weights_sha256) == (alone.step, alone.weights_sha256)
