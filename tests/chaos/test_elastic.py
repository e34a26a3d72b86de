"""Workers join and leave without repeated steps, and events report it. On a real cluster of several nodes."""

from __future__ import annotations

import json
import os
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.chaos.faults import Faults
from tests.chaos.run import Run
from tests.chaos.site import NODES, RESOURCES, Site
from tests.command import foundray, foundray_here, foundray_in_turn
from tests.hooked import Pace, rare_openers

import foundray as api
from foundray.cluster.local.cluster import LocalCluster
from foundray.testing.specs import small_spec, write_spec
from foundray.testing.waiting import wait_until

MIRROR_EVERY = 5
LINGER = 0.3
"""Seconds per micro-batch that keep a run from ending before a node has joined, even on a slow machine."""
HELD = 1.0
"""The same for a run of short steps."""


def spec_of(folder: Path, prose: Path, steps: int, micro_batches: int = 12, **changes: Any) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    train = {"steps": steps, "micro_batches": micro_batches, "micro_batch_size": 4}
    train |= {"evaluate_every": 1000, "checkpoint_every": 20}
    scale, fault = {"workers": [1, 4], "resources": {"CPU": 1}}, {"mirror_every": 5}
    changes = {"scale": scale, "fault": fault, **changes}
    return write_spec(folder, small_spec(prose, folder / "runs", model__width=64, train=train, **changes))


@pytest.fixture(scope="module")
def spec(prose: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return spec_of(tmp_path_factory.mktemp("elastic"), prose, steps=260, objective={"kind": "hooked"})


@pytest.fixture
def hooked_here(cluster: LocalCluster, monkeypatch: pytest.MonkeyPatch) -> None:
    """The hooked objective, which the cluster finds by PYTHONPATH, is found in this process, too."""
    monkeypatch.syspath_prepend(os.environ["PYTHONPATH"].partition(os.pathsep)[0])


@pytest.fixture
def pace(tmp_path: Path) -> Pace:
    return Pace(tmp_path / "pace", 0.0)


@pytest.fixture
def start(cluster: LocalCluster) -> Iterator[Callable[..., Run]]:
    """Start runs on the cluster; afterwards no run and no node is left for the next test."""
    started: list[Run] = []

    def remembered(*arguments: Any) -> Run:
        started.append(Run(cluster, *arguments))
        return started[-1]

    yield remembered
    for run in started:
        run.end()
    cluster.kill(*Site(cluster).nodes())


@pytest.fixture(scope="module")
def growing(prose: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Few and short steps, which are slow while the number of workers changes."""
    return spec_of(tmp_path_factory.mktemp("growing"), prose, steps=100, micro_batches=6, objective={"kind": "hooked"})


def world(run: Run) -> int:
    return int([event for event in run.events() if event["event"] == "workers_started"][-1]["workers"])


def wait_for_world(run: Run, size: int, seconds: float = 300) -> None:
    """Wait until a group of this size is computing."""
    wait_until(
        lambda: any(e["event"] == "workers_started" for e in run.events()) and world(run) == size,
        seconds,
        lambda: f"a group of {size}: {run.events()[-5:]}",
        run.process,
        pause=0.1,
    )


def shares(run: Run, step: int) -> list[float]:
    """Fraction of a checkpoint in each shard."""
    manifest = run.folder / "checkpoints" / f"step-{step:08d}" / "manifest.json"
    run.wait_for_file(manifest)
    shards = json.loads(manifest.read_text())["shards"]
    blocks = [sum(stop - start for start, stop in shard["ranges"]) for shard in shards]
    return [part / sum(blocks) for part in blocks]


def test_growing_draining_and_losing(
    cluster: LocalCluster, hooked_here: None, growing: Path, start: Callable[..., Run], pace: Pace
) -> None:
    """No step is repeated if a node joins, one drains, or the feeder dies; few are if a node is lost."""
    for gigabytes in (1, 3):
        cluster.add({**RESOURCES, "memory": gigabytes * 1e9}, environment=pace.environment)
    undisturbed = start(growing, "undisturbed", "--set", "scale.workers=1").wait().facts
    pace.set(LINGER / 5)
    run = start(growing, "elastic")
    faults = Faults(Site(cluster), run, random.Random(0))
    run.wait_for_step(10)
    assert world(run) == 2
    again = foundray_here("resume", run.folder)
    assert f"process {run.process.pid} of" in again.refusal
    assert "is running" in again.refusal

    run.wait_for_step(25)
    assert sorted(shares(run, 20)) == pytest.approx([0.25, 0.75], abs=0.01), "shards of the state follow the nodes' memory"
    pace.set(HELD)
    added = cluster.add({**RESOURCES, "memory": 2e9}, environment=pace.environment)
    wait_for_world(run, 3)
    pace.set(LINGER / 2)
    run.wait_for_step(run.step() + 3)
    faults.feeder()
    run.wait_for_step(run.step() + 5)
    pace.set(HELD)
    cluster.drain(added, 20)
    wait_for_world(run, 2)
    pace.set(LINGER / 2)
    run.wait_for_step(run.step() + 3)
    assert api.status(run.folder).steps_repeated == 0
    cluster.kill(added)
    run.wait_for_step(run.step() + 3)

    faults.node()
    pace.set(0)
    facts = run.wait().facts
    assert facts["weights_sha256"] == undisturbed["weights_sha256"]
    assert facts["steps_repeated"] <= MIRROR_EVERY
    assert facts["account"]["recovery"] > 0
    assert sum(facts["account"].values()) == pytest.approx(facts["seconds"], abs=0.01)
    assert api.audit(run.folder).clean


@pytest.mark.thorough
def test_a_node_that_comes_while_another_drains_is_taken_in(
    cluster: LocalCluster, spec: Path, start: Callable[..., Run], pace: Pace
) -> None:
    """It joins at once, although the draining node stays for long; events show readable node names."""
    going, staying = (cluster.add(RESOURCES, environment=pace.environment) for _ in range(2))
    pace.set(LINGER / 5)
    run = start(spec, "replaced", "--set", "scale.workers=[1,2]", "--set", "train.steps=300")
    wait_for_world(run, 2)
    cluster.drain(going, 600)
    coming = cluster.add(RESOURCES, environment=pace.environment)
    run.wait_for(lambda: any(e["event"] == "member_ready" and e["node"] == coming for e in run.events()), "the new worker")
    run.wait_for(lambda: world(run) == 2 and run.events()[-1]["event"] == "workers_started", "a group with it")
    assert {e["node"] for e in run.events() if e["event"] == "member_left"} == {going}
    assert {e["node"] for e in run.events() if e["event"] == "member_ready"} == {going, staying, coming}
    pace.set(0)
    done = run.wait()
    assert (done.facts["state"], done.facts["steps_repeated"]) == ("finished", 0)


@pytest.mark.thorough
def test_planted_faults_are_found_wherever_they_are(
    prose: Path, tmp_path: Path, cluster: LocalCluster, start: Callable[..., Run]
) -> None:
    """A sample with a NaN loss, one with a huge loss, and a node that computes different bits."""
    nan_token, spike_token = rare_openers(spec_of(tmp_path / "plain", prose, steps=60), 60)
    objective = {"kind": "hooked", "nan_token": nan_token, "spike_token": spike_token}
    guard = {"spike": 12.0, "recheck_every": 20, "max_skipped": 1000}
    spec = spec_of(tmp_path, prose, steps=60, objective=objective, guard=guard)
    one = ("--set", "scale.workers=1")
    alone, limited = foundray_in_turn(
        ("train", spec, "--set", "name=alone", *one, "--json"),
        ("train", spec, "--set", "name=limited", "--set", "guard.max_skipped=0", *one),
        on_one_ray=True,
    )
    assert "were not finite and are left out" in alone.out
    assert "is a spike; its update is not made" in alone.out
    assert limited.status == 1
    assert "guard.max_skipped is 0: look at the samples" in limited.err

    for _ in range(2):
        cluster.add(RESOURCES)
    bad = cluster.add(RESOURCES, environment={"HOOKED_FLIP": "1"})
    left_out = f"the node {bad} is left out: it computed different bits from the others"
    run = start(spec, "flipped", "--set", "scale.workers=[3,4]")
    run.wait_for_event("left_out")  # all three are needed, so it took part
    cluster.add(RESOURCES)
    done = run.wait()
    assert done.facts["weights_sha256"] == alone.facts["weights_sha256"]
    assert left_out in done.out


@pytest.mark.thorough
def test_a_spike_is_rolled_back_past_by_any_number_of_workers(
    prose: Path, tmp_path: Path, cluster: LocalCluster, start: Callable[..., Run]
) -> None:
    """The run returns to a state before it, and continues with the data after it; a node lost meanwhile leaves no trace."""
    for _ in range(NODES):
        cluster.add(RESOURCES)
    spike_token = rare_openers(spec_of(tmp_path / "plain", prose, steps=60), 60)[0]
    objective = {"kind": "hooked", "spike_token": spike_token}
    spec = spec_of(tmp_path, prose, steps=60, objective=objective, guard={"spike": 12.0, "roll_back": 10})
    alone = start(spec, "alone", "--set", "scale.workers=1")
    facts = alone.wait().facts
    turns = rolled_back(alone)
    assert turns
    assert all(to % 10 == 0 and to < spike for spike, to, _ in turns)

    run = start(spec, "several")
    run.wait_for_event("rolled_back")
    Faults(Site(cluster), run, random.Random(1)).node()
    assert run.wait().facts["weights_sha256"] == facts["weights_sha256"]
    assert rolled_back(run) == turns
    for one in (alone, run):
        assert foundray("audit", one.folder, "--json").facts["clean"]


def rolled_back(run: Run) -> list[tuple[int, int, int]]:
    return [(e["spike"], e["to"], e["passed_over"]) for e in run.events() if e["event"] == "rolled_back"]


@pytest.mark.thorough
def test_pools_of_unlike_machines_make_one_group_and_that_is_reported_once(
    spec: Path, cluster: LocalCluster, start: Callable[..., Run], pace: Pace
) -> None:
    """One of two nodes uses different kernels; the other is lost and returns, and the two mix again."""
    big = cluster.add({**RESOURCES, "big": 1}, environment=pace.environment)
    cluster.add({**RESOURCES, "spot": 1}, environment={**pace.environment, "ATEN_CPU_CAPABILITY": "default"})
    kinds = {"big": "workers: [0, 1]", "spot": "workers: 1"}
    pools = ", ".join(f"{kind}: {{{workers}, resources: {{CPU: 1, {kind}: 1}}}}" for kind, workers in kinds.items())
    run = start(spec, "pools", "--set", f"scale={{pools: {{{pools}}}}}")
    wait_for_world(run, 2)
    run.wait_for_step(20)
    pace.set(LINGER)
    cluster.kill(big)
    wait_for_world(run, 1)
    cluster.add({**RESOURCES, "big": 1}, environment=pace.environment)
    wait_for_world(run, 2)
    pace.set(0)
    done = run.wait()
    assert done.facts["state"] == "finished"
    assert done.out.count("the hardware is of 2 kinds") == 1, done.out
    assert "sums are exact, but the bits depend on who computes what" in done.out


@pytest.mark.thorough
def test_too_few_workers_are_waited_for_and_then_given_up(spec: Path, cluster: LocalCluster, start: Callable[..., Run]) -> None:
    for _ in range(2):
        cluster.add(RESOURCES)
    run = start(spec, "waits", "--set", "scale.workers=[9,9]", "--set", "fault.wait_s=3")
    refused = run.wait()
    assert "0 of at least 9 workers are ready; each takes 1 CPU, and the cluster has 2 CPU in all" in refused.refusal
