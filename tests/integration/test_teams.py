"""Teams of workers on real Ray: the bits of a worker that holds the whole model, through a kill, and with other teams."""

from __future__ import annotations

import json
import os
import signal
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from tests.command import foundray_here
from tests.hooked import Pace
from tests.processes import descendants, title
from tests.repository import REPOSITORY

import foundray as api
from foundray.runs.facts import Facts
from foundray.runs.run import Run
from foundray.storage import Store
from foundray.testing.waiting import wait_until

pytestmark = pytest.mark.usefixtures("own_ray")

SHORT = {"train.steps": 12, "train.checkpoint_every": 4, "objective": {"kind": "hooked_text"}}
TEAMS = {**SHORT, "scale.resources.CPU": 0.25, "fault.mirror_every": 1}


@pytest.fixture
def judged(storage: Path) -> dict[str, Any]:
    """What evaluations judge besides losses: a task and a text."""
    items = [{"context": "the ", "choices": [word, word[::-1]], "answer": 0} for word in ("same", "other", "first", "last")]
    (storage / "items.jsonl").write_text("".join(json.dumps(item) + "\n" for item in items))
    tasks = {"words": {"path": str(storage / "items.jsonl")}}
    return {"evaluate": {"tasks": tasks, "prompts": ["The "], "text_tokens": 6}}


@pytest.fixture
def alone(pace: Pace, shared_spec: Path, storage: Path, judged: dict[str, Any]) -> Facts:
    done = Run(Store.at(storage) / "runs" / "whole")
    return done.facts() if done.exists() else api.train(shared_spec, {**SHORT, **judged, "name": "whole"})


def started(run: str) -> list[dict[str, Any]]:
    return events(run, "workers_started")


def events(run: str, kind: str) -> list[dict[str, Any]]:
    return [event for event in Run.open(run).records("events.jsonl") if event["event"] == kind]


@pytest.mark.thorough
def test_teams_give_the_same_bits_though_a_member_is_killed(alone: Facts, shared_spec: Path, storage: Path, pace: Pace) -> None:
    """Its state is gathered from what the other workers hold; of three that are left, one waits."""
    pace.set(0.2)
    run = Run(Store.at(storage) / "runs" / "teams")
    with ThreadPoolExecutor(1) as thread:
        training = thread.submit(api.train, shared_spec, {**TEAMS, "name": "teams", "scale.workers": [2, 4], "scale.team": 2})
        wait_until(lambda: run.exists() and len(run.records("metrics.jsonl")) > 2, 400, "steps", pause=0.01)
        os.kill(next(pid for pid in descendants(os.getpid()) if "ray::Worker" in title(pid)), signal.SIGKILL)
        wait_until(lambda: len(started(run.folder.url)) > 1, 100, "another group")
        pace.set(0.0)
        teams = training.result()
    first, second = started(teams.run)[:2]
    assert (first["workers"], first["team"]) == (4, 2)
    assert (second["workers"], second["team"], second["state"]) == (2, 2, "memory")
    assert second["step"] >= 2 and teams.steps_repeated <= 1
    assert (teams.weights_sha256, teams.val_loss) == (alone.weights_sha256, alone.val_loss)
    assert api.audit(teams.run).problems == []


def test_a_run_goes_on_with_other_teams(
    alone: Facts, shared_spec: Path, storage: Path, pace: Pace, judged: dict[str, Any]
) -> None:
    """And its evaluation finds what one worker's does: a task's measures, a text, and the layers' health."""
    pace.set(0.5)  # a request to stop is seen within three seconds
    run = Run(Store.at(storage) / "runs" / "others")
    with ThreadPoolExecutor(1) as thread:
        changes = {**TEAMS, **judged, "name": "others", "scale.workers": 3, "scale.team": 3, "fault.mirror_every": "never"}
        training = thread.submit(api.train, shared_spec, changes)
        wait_until(lambda: run.exists() and len(run.records("metrics.jsonl")) > 2, 400, "steps", pause=0.01)
        api.stop(run.folder.url)
        assert training.result().state == "stopped"
    pace.set(0.0)
    assert {step["mirrored"] for step in run.records("metrics.jsonl")} == {None}
    resumed = api.resume(run.folder.url, {"scale.workers": 2, "scale.team": 2})
    assert [(event["workers"], event["team"]) for event in started(resumed.run)] == [(3, 3), (2, 2)]
    assert (resumed.weights_sha256, resumed.val_loss) == (alone.weights_sha256, alone.val_loss)
    [found], [wanted] = (events(run, "evaluated") for run in (resumed.run, alone.run))
    assert [one["name"] for one in found["tasks"]] == ["words"] and [one["prompt"] for one in found["texts"]] == ["The "]
    for field in ("tasks", "texts", "health", "effective_rank"):
        assert found[field] == wanted[field]
    assert {"weight_rms", "update_rms", "attention_logit_max"} < set(found["health"][1])


def test_what_teams_need_is_said_before_anything_starts(shared_spec: Path) -> None:
    dry = foundray_here("train", shared_spec, "--dry-run", "--set", "scale.workers=[1, 5]", "--set", "scale.team=2")
    assert "2 workers hold one copy of the model between them" in dry.out
    assert "memory per worker, of 4" in dry.out and "of a unit at work" in dry.out
    few = foundray_here("train", shared_spec, "--dry-run", "--set", "scale.workers=3", "--set", "scale.team=2")
    assert "no number of workers from 3 to 3 makes whole teams of 2" in few.refusal
    compiled = foundray_here(
        "train", shared_spec, "--dry-run", "--set", "scale.workers=2", "--set", "scale.team=2", "--set", "train.compile=true"
    )
    assert "train.compile: no team of several workers compiles its layers" in compiled.refusal


@pytest.mark.thorough
def test_the_tiny_example_of_large_models_trains(prose: Path, tmp_path: Path) -> None:
    changes = {"data.sources.0.path": str(prose), "storage": str(tmp_path), "train.steps": 20}
    facts = api.train(REPOSITORY / "examples" / "large" / "tiny.yaml", changes)
    assert facts.state == "finished"
    assert {event["team"] for event in started(facts.run)} == {2}
