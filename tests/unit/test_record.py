"""What comes twice is recorded once, what is done again is recorded again, and what storage refuses is kept."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tests.unit.test_exact_step import make_spec

from foundray.run import Run, event
from foundray.storage import Store
from foundray.training.record import Recorder


def step(number: int, **fields: Any) -> dict[str, Any]:
    numbers = dict.fromkeys(("loss", "lr", "grad_norm", "tokens_per_s", "step_s", "data_wait_s", "copy_s"), 1.0)
    return {
        "time": float(number),
        "step": number,
        "workers": 1,
        "skipped": [],
        "spike": False,
        "passed_over": 0,
        **numbers,
        **fields,
    }


def started(number: int) -> dict[str, Any]:
    return event("workers_started", step=number, workers=1, device="cpu")


def recorder(folder: Path, said: list[str] | None = None) -> Recorder:
    return Recorder(Run(Store.at(folder)), make_spec(), 1.0, (said if said is not None else []).append, False)


def test_a_step_that_comes_twice_is_recorded_once_and_one_done_again_twice(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    subject = recorder(tmp_path / "run")
    subject.write([started(0), step(1), step(2), step(3)])
    subject.write([step(2), step(3), started(3), step(4)])  # sent again by a new rank 0
    subject.write([started(2), step(3), step(4), step(5)])  # done again
    subject.write([event("evaluated", step=5, val_loss=1.0), event("evaluated", step=5, val_loss=1.0)])
    subject.close()
    run = Run(Store.at(tmp_path / "run"))
    assert [record["step"] for record in run.records("metrics.jsonl")] == [1, 2, 3, 4, 3, 4, 5]
    assert [e["event"] for e in run.records("events.jsonl")].count("evaluated") == 1
    again = recorder(tmp_path / "run")
    assert (again.evaluated, again.losses[-1]) == (5, (5, 1.0))


def test_records_wait_until_storage_takes_them(tmp_path: Path) -> None:
    (folder := tmp_path / "run").mkdir()
    subject = recorder(folder)
    subject.write([started(0), step(1)])
    (folder / "metrics.jsonl").rename(tmp_path / "away")
    (folder / "metrics.jsonl").mkdir()
    subject.write([step(2)])
    (folder / "metrics.jsonl").rmdir()
    (tmp_path / "away").rename(folder / "metrics.jsonl")
    subject.write([step(3)])
    subject.close()
    assert [record["step"] for record in Run(Store.at(folder)).records("metrics.jsonl")] == [1, 2, 3]


def test_what_was_left_out_is_told_and_remembered(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    said: list[str] = []
    subject = recorder(tmp_path / "run", said)
    subject.write([started(0), step(1, skipped=[3]), step(2, spike=True, loss=9.0)])
    subject.close()
    assert subject.skipped == {(1, 3)}
    assert list(subject.losses) == [(1, 1.0)]
    assert any("[3] were not finite" in line for line in said)
    assert any("9.0000 is a spike" in line for line in said)
