"""Benchmarks account for times and processes correctly."""

from __future__ import annotations

import importlib
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tests.benchmarks import bench_goodput, bench_laptop, bench_scale, nanogpt
from tests.benchmarks.bench_processes import role
from tests.benchmarks.goodput.costs import ASSUMPTIONS, Costs
from tests.benchmarks.goodput.traces import Change, Trace, failures, node_seconds, spot_instances
from tests.benchmarks.small_runs import SETTLED_SECONDS, Record
from tests.repository import REPOSITORY
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


def test_every_benchmark_can_be_imported() -> None:
    """They run too long for the tests, which therefore would not notice what they use being moved."""
    for file in sorted((REPOSITORY / "tests" / "benchmarks").glob("*.py")):
        importlib.import_module(f"tests.benchmarks.{file.stem}")


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


FEW = Costs(nodes=8, spare=0.0, replacement_s=300.0)
ALL = [Change(0.0, f"node-{index}", True) for index in range(8)]


def goodput(system: str, trace: Trace, costs: Costs = FEW) -> float:
    return bench_goodput.outcome(system, costs, trace, 3600.0).goodput


@pytest.mark.parametrize("system", bench_goodput.SYSTEMS)
def test_a_forecast_counts_what_failures_cost(system: str) -> None:
    costs = Costs(nodes=8, spare=0.0, group_nodes=2)
    lost = sorted([*ALL, Change(1000.0, "node-3", False), Change(1300.0, "node-8", True)])
    silent = sorted([*ALL, Change(1000.0, "node-3", False, True), Change(1300.0, "node-8", True)])
    calm, broken, hung = (goodput(system, trace, costs) for trace in (ALL, lost, silent))
    assert 1 > calm > broken > hung > 0.75


def test_an_elastic_group_loses_a_pause_and_at_most_two_steps_per_failure() -> None:
    trace = sorted([*ALL, Change(1000.0, "node-3", False), Change(1300.0, "node-8", True)])
    found = bench_goodput.outcome(bench_goodput.ELASTIC, FEW, trace, 3600.0)
    assert (found.counts["groups after a break"], found.counts["groups after a joiner"]) == (1, 1)
    assert found.counts.get("steps repeated", 0) <= FEW.mirror_every
    assert found.useful_s + sum(found.lost_s.values()) == pytest.approx(found.node_s)
    assert min(found.lost_s.values()) >= 0
    again = bench_goodput.outcome(bench_goodput.ELASTIC, FEW, trace, 3600.0)
    assert (again.useful_s, again.lost_s) == (found.useful_s, found.lost_s)


def test_a_shard_and_its_replica_lost_together_cost_the_steps_since_a_checkpoint() -> None:
    trace = sorted([*ALL, *(Change(1000.0, f"node-{index}", False) for index in (3, 4))])
    found = bench_goodput.outcome(bench_goodput.ELASTIC, FEW, trace, 3600.0)
    assert found.counts["steps repeated"] > 10 * FEW.mirror_every


def test_joiners_wait_if_they_are_not_worth_a_pause() -> None:
    trace = sorted([*ALL, Change(1000.0, "node-3", False), Change(1300.0, "node-8", True)])
    costs = Costs(nodes=8, spare=0.125, micro_batches=1)
    assert bench_goodput.outcome(bench_goodput.PATIENT, costs, trace, 3600.0).counts.get("groups after a joiner", 0) == 0
    assert bench_goodput.outcome(bench_goodput.PATIENT, FEW, trace, 3600.0).counts["groups after a joiner"] == 1


def test_a_trace_of_failures_replaces_nodes_and_one_of_spot_instances_is_read(tmp_path: Path) -> None:
    trace = failures(FEW, 36_000.0, seed=1)
    assert trace == failures(FEW, 36_000.0, seed=1) != failures(FEW, 36_000.0, seed=2)
    assert node_seconds(trace, 36_000.0) < 8 * 36_000.0
    (tmp_path / "trace.csv").write_text("5000,add,a\n6000,add,b\n9000,remove,a\n")
    read = spot_instances(tmp_path / "trace.csv")
    assert read == [Change(0.0, "a", True), Change(1.0, "b", True), Change(4.0, "a", False)]
    assert any("elastic" in line for line in bench_goodput.preempted(tmp_path / "trace.csv", FEW))


def test_every_assumption_is_a_cost_with_its_default_in_its_range() -> None:
    for one in ASSUMPTIONS:
        assert min(one.low, one.high) <= getattr(Costs(), one.field) <= max(one.low, one.high), one.field
    assert len(list(bench_goodput.assumed())) == len(ASSUMPTIONS) + 1
