"""A run that starts from another's weights, on real Ray: alone, with a worker killed, and after its parent has continued."""

from __future__ import annotations

import json
import os
import shutil
import signal
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from tests.command import foundray_here
from tests.processes import descendants, title

import foundray as api
from foundray.data.stream.leases import validation_plan
from foundray.data.stream.plan import plan_for, read_micro_batches
from foundray.errors import InputError
from foundray.model.model import Model
from foundray.runs.facts import Facts
from foundray.runs.run import Run
from foundray.testing.waiting import wait_until
from foundray.training.driver import prepared_data
from foundray.training.evaluating.evaluation import evaluate
from foundray.training.step.trainer import Trainer
from foundray.training.warm_start.parent import find_start
from foundray.training.warm_start.starting import START, take

pytestmark = pytest.mark.usefixtures("own_ray")

STEPS = 40
WHOLE = {"evaluate.sets.validation.samples": "whole"}


@pytest.fixture(scope="module")
def parent(shared_spec: Path) -> Facts:
    return api.train(shared_spec, {"name": "parent", "train.steps": STEPS, "train.checkpoint_every": 20, **WHOLE})


def continued(spec: Path, name: str, workers: int = 1, **changes: Any) -> Facts:
    """Train from the parent's weights, with one checkpoint at the end."""
    start = {"init_from": str(spec.parent / "runs" / "parent"), "train.steps": STEPS, "train.checkpoint_every": 1000}
    return api.train(spec, {"name": name, "scale.resources.CPU": 0.5, "scale.workers": workers, **start, **changes})


@pytest.fixture(scope="module")
def alone(parent, shared_spec: Path) -> Facts:
    return continued(shared_spec, "continued", **WHOLE)


def metrics(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def test_it_continues_where_the_parent_ended(alone, parent, shared_spec: Path, storage: Path) -> None:
    runs = storage / "runs"
    assert parent.weights_sha256 != alone.weights_sha256
    assert parent.val_loss > alone.val_loss
    first, first_of_parent = (metrics(runs / name)[0] for name in ("continued", "parent"))
    assert first["loss"] == pytest.approx(parent.loss, abs=0.5)
    assert first["loss"] < first_of_parent["loss"] - 1
    assert first["data"] == first_of_parent["data"], "its data begin again"
    assert first["lr"] == first_of_parent["lr"], "and its schedule"
    assert alone.init_from == {
        "run": str(runs / "parent"), "step": 40, "weights_sha256": parent.weights_sha256, "teacher_sha256": None,
    }  # fmt: skip
    events = [json.loads(line) for line in (runs / "continued" / "events.jsonl").read_text().splitlines()]
    (initialised,) = [event for event in events if event["event"] == "initialised"]
    assert (initialised["run_step"], initialised["taken"], initialised["parameters"], initialised["new"]) == (40, 21, 21, [])
    shown = foundray_here("status", runs / "continued").out
    assert f"the weights of {runs / 'parent'} at step 40, SHA-256 {parent.weights_sha256}" in shown
    assert f"Starts from the weights of {runs / 'parent'} at step 40." in Path(api.report([runs / "continued"])).read_text()


def test_its_loss_before_the_first_step_is_the_parents_last(alone, parent, storage: Path) -> None:
    run = Run.open(str(storage / "runs" / "continued"))
    spec = run.spec()
    start = find_start(spec.model_copy(update={"name": "judged"}))
    model = Model(spec.model, spec.objective.build(), spec.unit_shape(start.classes))
    trainer = Trainer(spec, model, spec.objective.build())
    trainer.initialise()
    take(trainer, start.weights, start.classes)
    plan = plan_for(prepared_data(run), spec)
    judging = validation_plan(plan, False)
    count = -(-plan.order().validation_samples // judging.micro_batch_size)
    assert evaluate(trainer, ((at, next(read_micro_batches(judging, at, 1))) for at in range(count))).loss == parent.val_loss


@pytest.mark.thorough
def test_two_workers_give_the_same_bits_although_one_is_killed(alone, shared_spec: Path, storage: Path) -> None:
    run = storage / "runs" / "killed"
    with ThreadPoolExecutor(1) as thread:
        training = thread.submit(continued, shared_spec, "killed", 2)
        wait_until(lambda: (run / "metrics.jsonl").exists() and metrics(run), 400, "the first step", pause=0.01)
        os.kill(next(pid for pid in descendants(os.getpid()) if "ray::Worker" in title(pid)), signal.SIGKILL)
        facts = training.result()
    assert facts.restarts >= 1
    assert facts.weights_sha256 == alone.weights_sha256


@pytest.mark.thorough
def test_after_a_crash_at_the_start_its_parent_is_not_needed(alone, parent, storage: Path) -> None:
    """Nor is the first checkpoint needed: the run has its own copy of the weights that it started from."""
    run, away = storage / "runs" / "again", storage / "away"
    shutil.copytree(storage / "runs" / "continued", run)
    shutil.rmtree(run / "checkpoints")
    for file in ("events.jsonl", "metrics.jsonl"):
        (run / file).unlink()
    (storage / "runs" / "parent").rename(away)
    try:
        whole = (run / START).read_bytes()
        (run / START).write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
        with pytest.raises(InputError, match=r"from which this run starts, are no longer in .*train the same spec again"):
            api.resume(run)
        (run / START).write_bytes(whole)
        assert api.resume(run).weights_sha256 == alone.weights_sha256
    finally:
        away.rename(storage / "runs" / "parent")


@pytest.mark.thorough
def test_a_parent_that_has_continued(parent, shared_spec: Path, storage: Path) -> None:
    """A run that has begun keeps its start; a new run takes the newest checkpoint; a given hash must match."""
    moving = storage / "runs" / "moving"
    shutil.copytree(storage / "runs" / "parent", moving)
    later = moving / "checkpoints" / "step-00000040"
    later.rename(storage / "later")
    two = {"train.steps": 2, "init_from": str(moving)}
    early = continued(shared_spec, "early", **two)
    (storage / "later").rename(later)
    assert early.init_from["step"] == 32  # where the decay begins
    again = continued(shared_spec, "early", **two)
    assert (again.init_from, again.weights_sha256) == (early.init_from, early.weights_sha256)
    first = early.init_from["weights_sha256"]
    for start, step, weights in (
        (str(moving), 40, parent.weights_sha256),
        (f"{{run: {moving}, step: 32, weights_sha256: {first}}}", 32, first),
    ):
        dry = foundray_here("train", shared_spec, "--dry-run", "--set", "name=late", "--set", f"init_from={start}")
        assert f"parameters from {moving} at step {step}; SHA-256 {weights}" in dry.out
    assert parent.weights_sha256 != first
    with pytest.raises(InputError, match=r"was made by another spec: init_from.weights_sha256 was .* and is that of"):
        continued(shared_spec, "early", **{**two, "init_from": {"run": str(moving), "step": 40}})


@pytest.mark.thorough
def test_another_tokenizer_is_reported_once_the_data_is_prepared(parent, shared_spec: Path, storage: Path) -> None:
    with pytest.raises(
        InputError, match=r"trained on other tokens.*set data.tokenizer: \{kind: file, path: .*/parent/tokenizer"
    ):
        continued(shared_spec, "chars", **{"data.tokenizer": {"kind": "char"}})
    assert not (storage / "runs" / "chars").exists()
    own = {"kind": "file", "path": str(storage / "runs" / "parent" / "tokenizer.json")}
    assert continued(shared_spec, "own", **{"data.tokenizer": own, "train.steps": 1}).init_from["step"] == 40


def test_bad_input_is_one_sentence(parent, shared_spec: Path, storage: Path) -> None:
    place = storage / "runs" / "parent"
    for change, said in (
        ("init_from=none", "init_from: none is not a run's folder"),
        (f"init_from={{run: {place}, step: 3}}", "holds no complete checkpoint of step 3; it holds those of steps 20, 32, 40"),
        (f"init_from={{run: {place}, weights_sha256: {'a' * 64}}}", f"is {parent.weights_sha256}, not {'a' * 64}"),
    ):
        assert said in foundray_here("train", shared_spec, "--set", "name=bad", "--set", change).refusal, change
    start = f"init_from={place}"
    wide = foundray_here("train", shared_spec, "--set", "name=bad", "--set", start, "--set", "model.width=64")
    assert "set model.width: 32 as there" in wide.refusal
    assert "is this run itself" in foundray_here("train", shared_spec, "--set", "name=parent", "--set", start).refusal
    assert "tune trains networks of other sizes" in foundray_here("tune", shared_spec, "--set", start).refusal
    dry = foundray_here("train", shared_spec, "--dry-run", "--set", "name=bad", "--set", start)
    assert f"# init_from: 21 of 21 parameters from {place} at step 40; SHA-256 {parent.weights_sha256}" in dry.out
    assert not (storage / "runs" / "bad").exists()
