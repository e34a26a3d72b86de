"""`train`, `resume`, `status`, `samples`, `sample` on real Ray, for one, two and three workers."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path
from typing import Any

import pytest
import ray
from tests.command import foundray, foundray_here

import foundray as api
from foundray.records.schema import EVENTS, Step
from foundray.runs.run import Run
from foundray.spec.loading import load_spec
from foundray.testing.waiting import wait_until
from foundray.training.slots.board import start_board
from foundray.training.slots.slots import Slots

pytestmark = pytest.mark.usefixtures("own_ray")


LOOKED_AT = {"evaluate.sets.validation.samples": 300}
"""Samples of the validation split in an evaluation."""


def train(spec: Path, name: str, workers: int = 1, **changes: object):
    """The facts of a run through the Python API."""
    return api.train(spec, {"name": name, "scale.resources.CPU": 0.5, "scale.workers": workers, **LOOKED_AT, **changes})


@pytest.fixture(scope="module")
def alone(shared_spec: Path, storage: Path):
    """The facts of one run on one worker, from the command line."""
    foundray(
        "train", shared_spec, "--set", "name=alone", *(f"--set={name}={value}" for name, value in LOOKED_AT.items()), "--json"
    )
    return api.status(storage / "runs" / "alone")


def test_the_facts(alone, storage: Path) -> None:
    assert alone.state == "finished"
    assert (alone.step, alone.tokens, alone.workers, alone.restarts, alone.steps_repeated) == (12, 12 * 320, 1, 0, 0)
    assert alone.val_loss < 5.5
    assert alone["weights_sha256"] == alone.weights_sha256
    assert len(alone.weights_sha256) == 64
    facts = foundray_here("status", storage / "runs" / "alone", "--json").facts
    assert facts == json.loads(alone.to_json())
    assert set(facts) == {
        "run",
        "state",
        "step",
        "tokens",
        "loss",
        "val_loss",
        "weights_sha256",
        "init_from",
        "stopped_by",
        "checkpoint",
        "workers",
        "restarts",
        "worlds",
        "steps_repeated",
        "tokens_per_s",
        "seconds",
        "goodput",
        "account",
        "damage",
        "perplexity",
        "seconds_left",
        "ended_early",
        "branch_from",
    }
    assert sum(alone.account.values()) == pytest.approx(alone.seconds, abs=0.01)
    assert 0 < alone.goodput < 1
    folder = storage / "runs" / "alone"
    metrics = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert [record["step"] for record in metrics] == list(range(1, 13))
    records = [json.loads(line) for line in (folder / "events.jsonl").read_text().splitlines()]
    events = [record["event"] for record in records]
    evaluated = next(record for record in records if record["event"] == "evaluated")
    assert (evaluated["set"], evaluated["samples"], evaluated["val_tokens"]) == ("validation", 320, 320 * 32), (
        "whole micro-batches"
    )
    assert evaluated["of_samples"] > 1000
    assert [name for name in events if name != "checkpoint"] == [
        "command", "places", "member_ready", "workers_started", "evaluated", "finished",
    ]  # fmt: skip
    assert events.count("checkpoint") == 4  # two that are due, one where the decay begins, and the last
    assert sorted(path.name for path in folder.iterdir()) == [
        "checkpoints", "data.json", "events.jsonl", "metrics.jsonl", "spec.yaml", "tensorboard", "tokenizer.json",
    ]  # fmt: skip
    assert list((folder / "tensorboard").iterdir())


def test_every_record_is_as_documented(alone, storage: Path) -> None:
    """In docs/spec.md."""
    run = Run.open(str(storage / "runs" / "alone"))
    events, metrics = run.records("events.jsonl"), run.records("metrics.jsonl")
    for event in events:
        EVENTS[event["event"]].model_validate(event)
    for step in metrics:
        Step.model_validate(step)
    kinds = {"command", "places", "member_ready", "workers_started", "checkpoint", "evaluated", "finished"}
    assert kinds <= {event["event"] for event in events}
    assert len(metrics) == 12


@pytest.fixture(scope="module")
def of2(shared_spec: Path, storage: Path):
    """The facts of the same on two workers, stored at a URL."""
    return train(shared_spec, "small", 2, storage=f"file://{storage}/url")


@pytest.fixture(scope="module")
def of3(shared_spec: Path):
    return train(shared_spec, "of3", 3)


@pytest.mark.parametrize("workers", [2, pytest.param(3, marks=pytest.mark.thorough)])
def test_more_workers_give_the_same_bits(workers: int, alone, request: pytest.FixtureRequest) -> None:
    facts = request.getfixturevalue(f"of{workers}")
    assert facts.workers == workers
    assert facts.weights_sha256 == alone.weights_sha256
    assert facts.val_loss == alone.val_loss
    assert facts.loss == alone.loss


def test_training_again_and_another_spec_in_the_same_folder(alone, shared_spec: Path, storage: Path) -> None:
    again = foundray_here("train", shared_spec, "--set", "name=alone", "--json")
    assert again.facts["weights_sha256"] == alone.weights_sha256
    assert "is finished" in again.out
    other = foundray_here("train", shared_spec, "--set", "name=alone", "--set", "optimizer.lr=0.1")
    assert "was made by another spec: optimizer.lr was 0.004 and is 0.1" in other.refusal
    assert "was made by another spec" in foundray_here("resume", storage / "runs" / "alone", "--set", "seed=2").refusal


def test_the_audit_finds_what_is_amiss(alone, storage: Path) -> None:
    run = storage / "runs" / "alone"
    clean = foundray_here("audit", run, "--json")
    assert clean.facts["clean"]
    assert "12 steps, 120 samples: every one used exactly once" in clean.out
    step_log = run / "metrics.jsonl"
    whole = step_log.read_text()
    try:
        lines = whole.splitlines(keepends=True)
        swapped = json.loads(lines[4]) | {"data": json.loads(lines[5])["data"]}
        step_log.write_text("".join([*lines[:2], *lines[3:4], json.dumps(swapped) + "\n", *lines[5:]]))
        amiss = foundray_here("audit", run)
        assert amiss.status == 1
        assert "step 3 is not in the step log" in amiss.out
        assert "step 5 was computed on other samples than the order gives" in amiss.out
    finally:
        step_log.write_text(whole)


TAMPERED: dict[str, tuple[Any, ...]] = {
    "time": (1.0, "now"), "step": (3, 7, 13, 0, "5"), "tokens": (1599,), "loss": (math.nan, math.inf),
    "grad_norm": (-1.0, math.inf), "lr": (0.1,), "step_s": (0.0, 1e6), "data_wait_s": (-1.0, 1e6), "copy_s": (-1.0,),
    "tokens_per_s": (1.0,), "workers": (2,), "takers": ([[0, 4]], [[1, 5]], [[0, 4], [-1, 1]], [], 5),
    "skipped": ([9], [1, 1], [2, 1], [-1], [0, 1, 2, 3, 4]), "spike": (True,), "data": ("00000000",), "mirrored": (13, -1),
    "passed_over": (1,), "lineage": ("a",), "rechecked": (True,),
}  # fmt: skip
"""Values that the record of the fifth step cannot have."""


@pytest.mark.thorough
def test_every_field_that_is_tampered_with_is_found(alone, storage: Path) -> None:
    """In a copy of a real run's record; the audit of the original finds nothing."""
    run = storage / "runs" / "tampered"
    shutil.copytree(storage / "runs" / "alone", run)
    log, events = run / "metrics.jsonl", run / "events.jsonl"
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    happened = [json.loads(line) for line in events.read_text().splitlines()]
    assert set(TAMPERED) == set(Step.model_fields)

    def problems(changed: list[Any], file: Path = log) -> list[str]:
        whole = file.read_text()
        try:
            file.write_text("".join(json.dumps(line) + "\n" for line in changed))
            return api.audit(run).problems
        finally:
            file.write_text(whole)

    assert problems(lines) == []
    for field, values in TAMPERED.items():
        for value in values:
            assert problems([*lines[:4], lines[4] | {field: value}, *lines[5:]]), (field, value)
    assert "step 5 is not in the step log" in problems([*lines[:4], *lines[5:]])
    assert any("recorded again" in text for text in problems([*lines[:5], *lines[4:]]))
    assert problems([*lines[:4], lines[5], lines[4], *lines[6:]])
    for kind, field, value in (
        ("workers_started", "step", 2), ("workers_started", "workers", 2), ("finished", "step", 11), ("checkpoint", "step", 99),
        ("evaluated", "step", 99),
    ):  # fmt: skip
        assert problems([e | {field: value} if e["event"] == kind else e for e in happened], events), (kind, field)
    shutil.rmtree(run)


def test_samples_of_a_step(alone, storage: Path) -> None:
    run = storage / "runs" / "alone"
    listed = foundray_here("samples", run, "--step", 3, "--json").facts
    assert len(listed["samples"]) == 10
    assert listed["samples"] == api.samples(run, 3)
    early = [name for step in range(1, 13) for name in api.samples(run, step)]
    assert len(set(early)) == len(early) == 120, "in an epoch, none is seen twice"
    assert "steps are counted from 1" in foundray_here("samples", run, "--step", 0).refusal
    assert "the run ends after step 12" in foundray_here("samples", run, "--step", 13).refusal


def test_sampling_a_text(alone, storage: Path) -> None:
    run = storage / "runs" / "alone"
    texts = [api.sample(run, "def ", tokens=30, seed=seed) for seed in (1, 1, 2)]
    assert texts[0] == texts[1] != texts[2]
    assert all(text.startswith("def ") for text in texts)
    shown = foundray_here("sample", run, "--prompt", "def ", "--tokens", 30, "--seed", 1, "--json").facts
    assert shown["text"] == texts[0]
    assert api.sample(run, "x", tokens=20, temperature=0) == api.sample(run, "x", tokens=20, temperature=0, seed=9)
    assert "--top-k at least 1" in foundray_here("sample", run, "--top-k", 0).refusal


def test_one_process_holds_all_slots_and_frees_them(shared_spec: Path) -> None:
    """On a command's own Ray: three slots are reported, and nothing stays reserved for the next run of this process."""
    spec = load_spec(shared_spec, {"scale.workers": 3, "scale.resources.CPU": 0.5})
    (pool,) = spec.scale.all_pools
    board = start_board()
    slots = Slots.reserve(Run.named(spec), spec, {pool: (3, 3)}, board, [], delayed=False)

    def held() -> int:
        return len(ray.get(board.take.remote())[1])

    def reserved() -> list[dict[str, float]]:
        groups = ray.util.placement_group_table().values()
        return [bundle for group in groups if group["state"] != "REMOVED" for bundle in group["bundles"].values()]

    wait_until(lambda: held() == 3, 90, "three slots")
    assert reserved() == [{"CPU": 1.5}]
    ray.get(board.close.remote())
    slots.close([])
    wait_until(lambda: not reserved(), 10, "no reservation")


def test_dry_run_and_schema(shared_spec: Path, storage: Path) -> None:
    before = sorted(storage.rglob("*"))
    dry = foundray_here("train", shared_spec, "--dry-run", "--set", "scale.workers=[1,3]", "--json")
    assert dry.facts["spec"]["model"]["hidden"] is None
    assert dry.facts["derived"]["total tokens"] == "3,840"
    assert "memory per worker, of 3" in dry.out
    assert sorted(storage.rglob("*")) == before
    schema = json.loads(foundray_here("schema").out)
    assert schema["properties"]["seed"]["description"] == "Determines all random numbers of the run."


def test_a_storage_url(of2, storage: Path) -> None:
    assert of2.run == f"file://{storage}/url/small"
    assert foundray_here("status", of2.run, "--json").facts == json.loads(of2.to_json())
