"""Benchmarks account for times and processes correctly."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tests.benchmarks import bench_laptop, bench_scale, nanogpt
from tests.benchmarks.bench_processes import role
from tests.benchmarks.small_runs import SETTLED_SECONDS, Record
from tests.unit.recording import step


def record(ends: list[float], evaluated: float) -> Record:
    """Records of a command that began at 0, whose run began at 2; it ended one second after its run."""
    steps = [
        step(number) | {"time": end, "step_s": 0.5, "data_wait_s": 0.1, "copy_s": 0.0} for number, end in enumerate(ends, 1)
    ]
    events: list[dict[str, Any]] = [
        {"event": "command", "time": 2.0},
        {"event": "evaluated", "time": evaluated, "seconds": 4.0, "val_loss": 1.5},
        {"event": "finished", "time": ends[-1] + 1},
    ]
    return Record(events, steps, 0.0, ends[-1] + 2)


def test_a_steady_step_is_from_end_to_end_and_leaves_out_starts_and_evaluations() -> None:
    ends, now, slow = [], 5.0, int(SETTLED_SECONDS / 3)
    for number in range(60):
        now += 3.0 if number < slow else 4.6 if number == 30 else 0.6
        ends.append(now)
    subject = record(ends, evaluated=ends[30] - 0.1)
    assert subject.step_seconds() == pytest.approx(0.6)
    assert subject.step_seconds(since=ends[45]) == pytest.approx(0.6)
    assert max(b - a for a, b in zip(ends[slow:], ends[slow + 1 :], strict=False)) > 4, "with an evaluation in it"


def test_the_parts_of_a_command_sum_to_all_of_it() -> None:
    subject = record([5.5, 6.0, 10.5, 11.0], evaluated=10.0)
    parts = subject.parts()
    assert sum(parts.values()) == pytest.approx(subject.seconds)
    assert (parts["Ray and driver"], parts["starting"], parts["evaluating"], parts["ending"]) == (2.0, 3.0, 4.0, 1.0)


@pytest.mark.parametrize(
    ("command", "name"),
    [
        ("ray::Worker", "ray::Worker"),
        ("ray::_Board.take", "ray::_Board"),
        ("ray::IDLE_SpillWorker", "ray::IDLE_SpillWorker"),
        ("/x/ray/core/src/ray/raylet/raylet --raylet_socket_name=/tmp/r", "raylet"),
        ("/x/bin/python3 -u /x/ray/dashboard/agent.py --node-ip-address=127.0.0.1", "agent.py"),
        ("/x/bin/python3 /x/bin/foundray train spec.yaml", "driver"),
    ],
)
def test_processes_have_names(command: str, name: str) -> None:
    assert role(command.split(" ")) == name


@pytest.mark.parametrize("part", bench_scale.PARTS, ids=lambda part: part.name)
def test_a_part_is_measured_at_each_size(part: bench_scale.Part) -> None:
    first, second = bench_scale.rows(replace(part, sizes=(3, 40)), call_s=0.0025)
    assert first.split()[-1] == "-", "no growth yet"
    float(second.split()[-1])


def test_what_is_no_checkout_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "train.py").write_text("")
    with pytest.raises(ValueError, match=r"is no checkout of nanoGPT: it has no model\.py"):
        nanogpt.copied(tmp_path, tmp_path / "copies", tmp_path / "train.py")
    monkeypatch.setattr(sys, "argv", ["bench_laptop", "--nanogpt", str(tmp_path), "--text", str(tmp_path / "none")])
    with pytest.raises(SystemExit) as ended:
        bench_laptop.main()
    assert ended.value.code == 2 and "there is no file" in capsys.readouterr().err
