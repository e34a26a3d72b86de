"""Seeded schedules of faults on a cluster of four nodes: all end with the weights of an undisturbed run.

`make test-all` runs two of them; `make chaos` runs twenty, or CHAOS_RUNS.
"""

from __future__ import annotations

import os
import random
import time
from pathlib import Path

import pytest
from tests.chaos.disk import Disk
from tests.chaos.faults import NODES, RESOURCES, STEPS, Faults, Run, schedule
from tests.command import foundray

from foundray.cluster.local.cluster import LocalCluster

SEEDS = range(int(os.environ["CHAOS_RUNS"])) if "CHAOS_RUNS" in os.environ else (6, 17)


@pytest.mark.thorough
@pytest.mark.parametrize("seed", SEEDS)
def test_a_disturbed_run_ends_with_the_same_weights(
    seed: int, spec: Path, undisturbed: str, cluster: LocalCluster, disk: Disk | None
) -> None:
    while len(cluster.nodes) < NODES + 1:
        cluster.add(RESOURCES)
    run = Run(cluster, spec, f"chaos-{seed}")
    faults = Faults(cluster, run, random.Random(seed), disk)
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
        run.end()
    assert facts["weights_sha256"] == undisturbed
    audit = foundray("audit", run.folder, "--json").facts
    assert audit["clean"], audit["problems"]
