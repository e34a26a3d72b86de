"""Seeded schedules of faults on a cluster of four nodes: all end with the weights of an undisturbed run.

`make test` runs four of them; `make chaos` runs twenty, or as many as CHAOS_RUNS says.
"""

from __future__ import annotations

import os
import random
import time
from pathlib import Path

import pytest
from tests.chaos.faults import NODES, RESOURCES, Faults, Run, schedule
from tests.conftest import small_spec, write_spec
from tests.integration.conftest import foundray

import foundray as api
from foundray.local_cluster import LocalCluster

STEPS = 200
RUNS = int(os.environ.get("CHAOS_RUNS", "4"))


@pytest.fixture(scope="module")
def spec(prose: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("schedules")
    changes = {
        "train": {
            "steps": STEPS, "micro_batches": 12, "micro_batch_size": 4, "evaluate_every": 60, "checkpoint_every": 20,
        },
        "scale": {"workers": [1, 4], "resources": {"CPU": 1}},
        "fault": {"mirror_every": 5},
    }  # fmt: skip
    return write_spec(folder, {**small_spec(prose, folder / "runs", model__width=64), **changes})


@pytest.fixture(scope="module")
def undisturbed(spec: Path) -> str:
    return str(api.train(spec, {"name": "undisturbed", "scale.workers": 1}).weights_sha256)


@pytest.mark.parametrize("seed", range(RUNS))
def test_a_disturbed_run_ends_with_the_same_weights(seed: int, spec: Path, undisturbed: str, cluster: LocalCluster) -> None:
    while len(cluster.nodes) < NODES + 1:
        cluster.add(RESOURCES)
    run = Run(cluster, spec, f"chaos-{seed}")
    faults = Faults(cluster, run, random.Random(seed))
    try:
        for moment, kinds in schedule(seed, STEPS):
            run.wait_for_step(moment)
            faults.settle()
            for kind in kinds:
                print(f"seed {seed}, step {run.step()}: {kind}", flush=True)
                getattr(faults, kind)()
        time.sleep(3)
        faults.settle()
        facts = run.wait().facts
    finally:
        if run.process.poll() is None:
            run.kill()
    assert facts["weights_sha256"] == undisturbed
    audit = foundray("audit", run.folder, "--json").facts
    assert audit["clean"], audit["problems"]
