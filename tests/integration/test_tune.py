"""Searching small and training big on real local Ray, as a user does; and continuing a killed search."""

from __future__ import annotations

import json
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml
from tests.command import FOUNDRAY, foundray, foundray_here

from foundray.testing.specs import small_spec, write_spec
from foundray.testing.waiting import wait_until

SEARCH: dict[str, Any] = {
    "model": {"width": 64, "depth": 2, "heads": 4, "context": 32},
    "train__steps": 60,
    "tune": {
        "space": {"optimizer.lr": {"log_uniform": [1e-3, 0.1]}}, "sampler": "random", "trials": 6, "judged_tokens": 1024,
        "budget": 4.0, "proxy": {"steps": 54}, "ladder": 0.0,
    },
}  # fmt: skip


@pytest.fixture
def search(prose: Path, storage: Path, tmp_path: Path) -> Callable[..., Path]:
    """A spec whose search is small; with the module's storage."""

    def make(**changes: Any) -> Path:
        return write_spec(tmp_path, small_spec(prose, storage / "runs", **{**SEARCH, **changes}))

    return make


def test_a_short_search(own_ray: None, search: Callable[..., Path], storage: Path) -> None:
    tuning = {**SEARCH["tune"], "space": {"optimizer.lr": {"choice": [4e-3, 1e30]}}, "sampler": "grid"}
    facts = foundray_here("tune", search(name="short", tune=tuning), "--json").facts
    assert [(trial["values"]["optimizer.lr"], trial["state"]) for trial in facts["trials"]] == [
        (4e-3, "done"),
        (1e30, "diverged"),
    ]
    assert facts["values"] == {"optimizer.lr": 4e-3} and 0 < facts["flops"] <= facts["allowed"]
    tuned = yaml.safe_load((storage / "runs" / "short-tune" / "tuned.yaml").read_text())
    assert 0 < tuned["optimizer"]["lr"] < 0.1 and tuned["train"]["steps"] == 60


@pytest.mark.thorough
def test_tune_then_train_then_see_whether_the_forecast_came_true(
    own_ray: None, search: Callable[..., Path], storage: Path
) -> None:
    wild = {"optimizer.lr": {"choice": [4e-3, 1e-2, 1e30]}, "train.micro_batches": {"choice": [1]}}  # of 5 in the spec
    tuning = {**SEARCH["tune"], "space": wild, "sampler": "grid", "ladder": 0.7, "budget": 6.0}
    done = foundray_here("tune", search(name="whole", tune=tuning), "--json")
    facts, folder = done.facts, storage / "runs" / "whole-tune"
    best, other, wildest = facts["trials"]
    assert (best["state"], wildest["state"], wildest["values"]["optimizer.lr"]) == ("done", "diverged", 1e30)
    assert other["state"] in ("done", "stopped"), "which may depend on which of the two was judged first"
    assert wildest["standing"].startswith("diverged in step ")
    # A fifth of the batch takes five times the steps: tokens stay those of the spec, and of the forecast.
    tuned = yaml.safe_load((folder / "tuned.yaml").read_text())["train"]
    assert (tuned["micro_batches"], tuned["steps"]) == (1, 300)
    assert "19,200 tokens as before, in steps of 64 instead of 320" in (folder / "tuned.yaml").read_text()
    assert facts["forecast"]["target"]["tokens"] == 60 * 320
    assert facts["forecast"]["points"][-1]["loss"] == facts["score"]  # the best trial is a run like those of the ladder
    assert 0 < facts["flops"] <= facts["allowed"] == pytest.approx(6.0 * facts["full"])
    for sentence in ("diverged", "bill: ", "best: optimizer.lr", f"next: foundray train {folder}/tuned.yaml"):
        assert sentence in done.out
    assert {file.name for file in (folder / "pictures").iterdir()} == {"search.svg", "scaling-law.svg"}
    board = [str(file.relative_to(folder)) for file in folder.rglob("*tfevents*")]
    assert sum("trial-" in name for name in board) == 2  # HParams, of those with a result
    # The forecast is stated before the run begins, and its interval is shown beside what came.
    low, high = facts["forecast"]["interval"].values()
    assert 0 < low < high
    trained = foundray_here("train", folder / "tuned.yaml", "--json").facts
    shown = foundray_here("status", trained["run"]).out
    assert f"90 %: {low:.4f} to {high:.4f}), made before it began; the result is {trained['val_loss']:.4f}" in shown
    # The same from the search's folder, of a run that has begun; and from a run, which is too few.
    again = foundray_here("forecast", folder, "--json")
    assert len(again.facts["points"]) == len(facts["forecast"]["points"]) >= 6
    assert "has begun: the forecast is not kept there" in again.out
    assert "at least 6 runs, and there are 1" in (
        refusal := foundray_here("forecast", trained["run"], "--for", folder / "tuned.yaml").refusal
    ), refusal
    # Another search has another name.
    other = foundray_here("tune", search(name="whole", tune=tuning), "--set", "tune.trials=5")
    assert "holds the search of another spec: tune.trials was 6 and is 5" in other.refusal


def findings(folder: Path) -> dict[int, tuple[Any, dict[int, float]]]:
    """Each trial's values, and its validation loss by step."""
    found = {}
    for file in (folder / "trials").glob("*/trial.json"):
        facts, results = json.loads(file.read_text()), file.with_name("results.jsonl")
        rungs = [json.loads(line) for line in results.read_text().splitlines()] if results.exists() else []
        assert facts["number"] not in found
        found[facts["number"]] = (facts["values"], {rung["step"]: rung["val_loss"] for rung in rungs})
    return found


def best_of(found: dict[int, tuple[Any, dict[int, float]]]) -> Any:
    """Values of the trial with the lowest last loss, of those that were judged most often."""
    return min(found.values(), key=lambda trial: (-len(trial[1]), trial[1][max(trial[1])]))[0]


@pytest.fixture
def driver(tmp_path: Path) -> Iterator[Callable[[Path], subprocess.Popen[bytes]]]:
    started: list[subprocess.Popen[bytes]] = []

    def start(spec: Path) -> subprocess.Popen[bytes]:
        with (tmp_path / "out.txt").open("ab") as out:
            started.append(subprocess.Popen([FOUNDRAY, "tune", spec], stdout=out, stderr=out))
        return started[-1]

    yield start
    for process in started:
        for one in [*psutil.Process(process.pid).children(recursive=True), process] if process.poll() is None else []:
            one.kill()
        process.wait()


@pytest.mark.thorough
def test_a_search_whose_trial_and_driver_are_killed_ends_with_the_same_trials(
    own_ray: None, search: Callable[..., Path], storage: Path, driver: Callable[[Path], subprocess.Popen[bytes]]
) -> None:
    undisturbed = foundray_here("tune", search(name="quiet"), "--json").facts
    spec, folder = search(name="killed"), storage / "runs" / "killed-tune"
    first = driver(spec)

    def judged(count: int) -> Callable[[], bool]:
        return lambda: sum(len(losses) for _, losses in findings(folder).values()) >= count

    wait_until(judged(1), 400, "first result")
    working = [one for one in psutil.Process(first.pid).children(recursive=True) if "ImplicitFunc" in " ".join(one.cmdline())]
    assert working, "no trial's process was found"
    working[0].kill()
    wait_until(judged(4), 400, "results after a trial was killed")
    assert first.poll() is None, "the search is over before it could be killed"
    before = findings(folder)
    first.send_signal(signal.SIGKILL)
    first.wait()
    after = foundray("tune", spec, "--json").facts
    found, expected = findings(folder), findings(storage / "runs" / "quiet-tune")
    assert {number: values for number, (values, _) in found.items()} == {n: values for n, (values, _) in expected.items()}
    assert sorted(found) == list(range(6))
    for number, (_, losses) in found.items():
        assert losses, f"the trial {number} is lost"
        assert before.get(number, (None, {}))[1].items() <= losses.items()  # what was found is not lost
        common = losses.keys() & expected[number][1].keys()
        assert common and {step: losses[step] for step in common} == {step: expected[number][1][step] for step in common}
    assert after["flops"] <= after["allowed"]
    # Which trials are stopped may depend on which were judged first; which one is best follows from what was found.
    assert (after["values"], undisturbed["values"]) == (best_of(found), best_of(expected))


def test_bad_input_of_a_search_is_one_sentence(
    own_ray: None, search: Callable[..., Path], storage: Path, tmp_path: Path
) -> None:
    bad = search(name="bad")
    assert "is larger than the run's model" in foundray_here("tune", bad, "--set", "tune.proxy.width=128").refusal
    assert "tune.budget: 1e-06 of the full" in foundray_here("tune", bad, "--set", "tune.budget=1e-6").refusal
    assert not (storage / "runs" / "bad-tune" / "trials").exists()
    assert not (storage / "runs" / "bad-tune" / "search.json").exists(), "a mended spec may begin the search"
    points = tmp_path / "points.csv"
    points.write_text("N,D,loss\n1e6,1e7,3.0\n1e6,2e7,2.9\n")
    target = ("--parameters", 1e9, "--tokens", 2e10)
    assert "at least 6 runs, and there are 2" in foundray_here("forecast", "--points", points, *target).refusal


@pytest.mark.thorough
def test_the_coordinate_check_of_a_spec(own_ray: None, search: Callable[..., Path], storage: Path) -> None:
    done = foundray_here("coordcheck", search(name="check"), "--widths", 16, 32, 64, "--steps", 4, "--json")
    assert done.facts["steady"] and done.facts["found"]["CompleteP"]["sizes"] == [16, 32, 64]
    assert "steady: hyperparameters found at one width are right for the others" in done.out
    assert (storage / "runs" / "check-coordcheck" / "widths.svg").read_text().startswith("<?xml")


@pytest.mark.thorough
def test_the_best_rate_by_width(own_ray: None, search: Callable[..., Path], storage: Path) -> None:
    rates = (1e-3, 1e-2, 1e30)
    done = foundray_here(
        "transfer", search(name="rates"), "--widths", 32, 16, "--rates", *rates, "--steps", 12, "--seeds", 2, "--json"
    )
    found = done.facts["found"]
    assert found["CompleteP"]["16"] == found["standard"]["16"]  # at the base's width both are one
    assert found["CompleteP"]["32"] != found["standard"]["32"]
    for widths in found.values():
        for points in widths.values():
            assert [rate for rate, _, _ in points] == list(rates)
            assert points[1][1] < points[0][1] and points[2][1] == float("inf")  # the largest diverges, and is listed
    assert set(done.facts["verdicts"]["CompleteP"]) == {"moved", "lost"} and "CompleteP: best is 0.01 at width 16" in done.out
    assert (storage / "runs" / "rates-transfer" / "transfer.svg").exists()
