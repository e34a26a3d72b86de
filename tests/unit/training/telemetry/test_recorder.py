"""Duplicates are recorded once, repeated steps again, and what storage refuses is kept."""

from __future__ import annotations

import threading
import time
from pathlib import Path
from typing import Any

import pytest
from tests.unit.recording import recorder, started, step

from foundray.errors import InputError
from foundray.records.writer import Writer
from foundray.runs.goodput import account
from foundray.runs.run import Run
from foundray.storage import Store
from foundray.testing.clock import SimulatedClock
from foundray.testing.records import untimed_event
from foundray.training.telemetry.recorder import Recorder


def recorded(folder: Path, file: str) -> list[dict[str, Any]]:
    return Run(Store.at(folder)).records(file)


def test_a_step_sent_twice_is_recorded_once_and_a_repeated_one_twice(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    subject = recorder(tmp_path / "run")
    subject.write([started(0), step(1), step(2), step(3)])
    subject.write([step(2), step(3), started(3), step(4)])  # resent by a new rank 0
    subject.write([started(2), step(3), step(4), step(5)])  # repeated
    subject.write([untimed_event("evaluated", step=5, val_loss=1.0), untimed_event("evaluated", step=5, val_loss=1.0)])
    subject.close()
    assert [record["step"] for record in recorded(tmp_path / "run", "metrics.jsonl")] == [1, 2, 3, 4, 3, 4, 5]
    assert [e["event"] for e in recorded(tmp_path / "run", "events.jsonl")].count("evaluated") == 1
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    curves = EventAccumulator(str(tmp_path / "run" / "tensorboard"))
    curves.Reload()
    assert [scalar.step for scalar in curves.Scalars("train/loss")] == [1, 2, 3, 4, 5], "which reads each step once"
    again = recorder(tmp_path / "run")
    assert (again.reached, again.step) == (5, 0), "it ends there if it is stopped before its first group"
    assert (again.evaluated, again.losses[-1]) == (5, (5, 1.0))


@pytest.mark.parametrize(
    ("undone", "until", "loss"),
    [
        (untimed_event("rolled_back", step=8, spike=8, to=3, passed_over=5), 3, 3.0),
        (untimed_event("left_out", step=5, node="n"), 4, 5.0),  # with a recheck after every second step
        (untimed_event("rolled_back", step=1, spike=1, to=0, passed_over=1), 0, None),
    ],
)
def test_evaluations_that_were_undone_are_due_again_for_the_next_command(
    tmp_path: Path, undone: dict[str, Any], until: int, loss: float | None
) -> None:
    from foundray.testing.runs import run_with_records

    run = run_with_records(tmp_path, guard={"roll_back": 1, "spike": 12.0, "recheck_every": 2})
    first = Recorder(run, run.spec(), None, print, False)
    first.write([started(0), *map(step, range(1, 8))])
    first.write([untimed_event("evaluated", step=number, val_loss=float(number)) for number in (3, 5)])
    first.write([undone])
    first.close()
    again = Recorder(run, run.spec(), None, print, False)
    assert (again.evaluated, run.facts().val_loss) == (until, loss)
    again.write([started(until), step(until + 1), untimed_event("evaluated", step=5, val_loss=9.0)])
    again.close()
    assert (again.val_losses[5], run.facts().val_loss) == (9.0, 9.0)


def test_a_command_that_lost_the_run_writes_nothing_more(tmp_path: Path) -> None:
    """Otherwise, its `failed` would appear in the log of the command that continues."""
    subject = recorder(tmp_path)
    subject.write([started(0), step(1)])
    subject.settle()
    before = recorded(tmp_path, "events.jsonl"), recorded(tmp_path, "metrics.jsonl")
    subject.abandon()
    subject.write([step(2), untimed_event("failed", step=2, reason="another command has taken over the run", exit_status=1)])
    subject.close()
    assert (recorded(tmp_path, "events.jsonl"), recorded(tmp_path, "metrics.jsonl")) == before


def test_a_line_that_a_killed_writer_left_unfinished_is_cut_off(tmp_path: Path) -> None:
    run = Run(Store.at(tmp_path))
    command, finished = ({"time": 1.0, **untimed_event(name)} for name in ("command", "finished"))
    run.append("events.jsonl", [command])
    with (tmp_path / "events.jsonl").open("a") as stream:
        stream.write('{"time": 18')
    assert run.records("events.jsonl") == [command]
    run.append("events.jsonl", [finished])
    assert run.records("events.jsonl") == [command, finished]
    assert run.damage() == []


def test_records_wait_until_storage_takes_them(tmp_path: Path) -> None:
    (folder := tmp_path / "run").mkdir()
    subject = recorder(folder)
    subject.write([started(0), step(1)])
    subject.settle()
    folder.rename(tmp_path / "away")
    subject.write([step(2)])
    with pytest.raises(InputError, match="cannot be written"):
        subject.record_writer.settle(1.0)
    assert subject.stored_step == 1
    (tmp_path / "away").rename(folder)
    subject.write([step(3)])
    subject.close()
    assert [record["step"] for record in recorded(folder, "metrics.jsonl")] == [1, 2, 3]


def test_storage_that_stalls_holds_up_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "run").mkdir()
    subject, answers, append = recorder(tmp_path / "run"), threading.Event(), Writer.append

    def stalls(self: Writer, records: list[dict[str, Any]]) -> None:
        answers.wait(30)
        append(self, records)

    monkeypatch.setattr(Writer, "append", stalls)
    began = time.monotonic()
    subject.write([started(0), step(1)])
    assert time.monotonic() - began < 5
    with pytest.raises(InputError, match="has not answered for"):
        subject.record_writer.settle(0.1)
    assert subject.stored_step == 0, "a checkpoint of this step must wait"
    answers.set()
    subject.close()
    assert subject.stored_step == 1


def test_repeated_steps_are_recorded_again(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    subject = recorder(tmp_path / "run")
    subject.write([started(0), *map(step, range(1, 8))])
    subject.settle()
    subject.write([started(3)])
    subject.settle()
    assert subject.stored_step == 3
    subject.close()
    assert recorder(tmp_path / "run").stored_step == 7


@pytest.mark.parametrize("hours", [-5, 5])
def test_a_clock_that_jumps_does_not_show_in_the_record(tmp_path: Path, hours: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """During a command or between two: the account's parts stay true, and none is negative."""
    (tmp_path / "run").mkdir()
    (clock := SimulatedClock()).install(monkeypatch.setattr)
    for command in range(2):
        subject = recorder(tmp_path / "run")
        clock.advance(0.01)
        subject.write([untimed_event("command", workers=[1, 1]), started(command)])
        clock.jump(hours * 3600.0 if command == 0 else 0.0)
        aged = step(command + 1, age=0.01, step_s=0.02, data_wait_s=0.0, copy_s=0.0)
        clock.advance(0.05)
        subject.write([aged])
        subject.close()
    events, metrics = recorded(tmp_path / "run", "events.jsonl"), recorded(tmp_path / "run", "metrics.jsonl")
    times = [record["time"] for record in sorted([*events, *metrics], key=lambda record: record["time"])]
    assert [record["time"] for record in events] == sorted(record["time"] for record in events)
    if hours < 0:
        assert times[-1] - times[0] < 5, "the log did not go back with the clock"
    parts = account(events, metrics)
    assert all(seconds >= 0 for seconds in parts.values())
    assert sum(parts.values()) == pytest.approx(0.08), "from each command to its step"
    assert parts["stepping"] == pytest.approx(0.04)


def test_micro_batches_left_out_are_reported_and_remembered(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    said: list[str] = []
    subject = recorder(tmp_path / "run", said)
    subject.write([started(0), step(1, skipped=[3]), step(2, spike=True, loss=9.0)])
    subject.close()
    assert subject.skipped == {(1, 3)}
    assert list(subject.losses) == [(1, 1.0)]
    assert any("[3] were not finite" in line for line in said)
    assert any("9.0000 is a spike" in line for line in said)


def test_nothing_is_recorded_as_earlier_than_its_command(tmp_path: Path) -> None:
    """Ray Train's request is made concurrently with the driver, so its age may reach back before the command's own record."""
    (tmp_path / "run").mkdir()
    subject = recorder(tmp_path / "run")
    subject.write([untimed_event("command", workers=[1, 1])])
    subject.write([untimed_event("places", pool="", request="train-1", age=5.0)])
    subject.close()
    command, places = recorded(tmp_path / "run", "events.jsonl")
    assert places["time"] >= command["time"]


def test_a_damaged_log_is_reported_and_the_run_continues(tmp_path: Path) -> None:
    (folder := tmp_path / "run").mkdir()
    first = recorder(folder)
    first.write([untimed_event("command", workers=[1, 1]), started(0), *map(step, range(1, 6))])
    first.close()
    lengths = []
    for file, number in (("events.jsonl", 0), ("metrics.jsonl", 4)):
        lines = (folder / file).read_bytes().splitlines(keepends=True)
        lengths.append(len(lines[number][:-1]))  # a time's last digits may be zeros, which are not written
        lines[number] = b"\0" * len(lines[number][:-1]) + b"\n"
        (folder / file).write_bytes(b"".join(lines))
    said: list[str] = []
    subject = recorder(folder, said)
    assert [line.partition(" is damaged: ")[2] for line in said] == [
        f"line 1 is not a JSON object ({lengths[0]} zero bytes); the run continues without it",
        f"line 5 is not a JSON object ({lengths[1]} zero bytes); the run continues without it",
    ]
    subject.write([untimed_event("command", workers=[1, 1]), started(5), step(6)])
    subject.close()
    assert [record["step"] for record in recorded(folder, "metrics.jsonl")] == [1, 2, 3, 4, 6]


def test_a_log_says_once_that_a_group_is_being_formed(tmp_path: Path) -> None:
    said: list[str] = []
    subject = recorder(tmp_path, said)
    subject.forming(2)
    subject.write([started(0), step(1), untimed_event("group_broken", step=1, reason="lost")])
    subject.forming(1)
    subject.close()
    assert [line for line in said if line.startswith("forming")] == ["forming a group of 2 workers"]
