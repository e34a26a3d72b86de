"""Seeded schedules of faults on a cluster of four nodes: all end with the weights of an undisturbed run."""

from __future__ import annotations

import os
import random
import time
from pathlib import Path

from tests.chaos.disk import Disk
from tests.chaos.faults import NODES, STEPS, Faults, Run, add_node
from tests.chaos.lan import Lan
from tests.command import foundray

from foundray.cluster.local.cluster import LocalCluster

SURVIVED = (
    "worker", "rank_0", "evaluating", "frozen", "slot", "feeder", "node", "drain", "add", "storage", "full", "stall", "damage",
    "paused", "held_up", "second_command", "refused_deletes", "partition",
)  # fmt: skip
RESUMED = ("driver", "head", "everything")


def schedule(seed: int, steps: int) -> list[tuple[int, tuple[str, ...]]]:
    """Plan three to four moments with one or two faults each; in some schedules the command has to be resumed."""
    dealer = random.Random(seed)
    moments = sorted(dealer.sample(range(steps // 20, steps * 3 // 4), dealer.choice([3, 4])))
    plan = [(moment, tuple(dealer.sample(SURVIVED, dealer.choice([1, 1, 2])))) for moment in moments]
    if dealer.random() < 0.4:
        plan[-1] = (plan[-1][0], (dealer.choice(RESUMED),))
    return plan


def seeds(few: tuple[int, ...], odd: bool) -> list[int]:
    """`few`, or all odd or even ones of the CHAOS_RUNS first seeds."""
    return list(range(int(odd), int(os.environ["CHAOS_RUNS"]), 2)) if "CHAOS_RUNS" in os.environ else list(few)


def disturb(seed: int, cluster: LocalCluster, spec: Path, undisturbed: str, disk: Disk | None, lan: Lan | None = None) -> None:
    """Train with the seed's faults, and compare the weights."""
    while len(cluster.nodes) < NODES + 1:
        add_node(cluster, lan)
    run = Run(cluster, spec, f"chaos-{seed}")
    faults = Faults(cluster, run, random.Random(seed), disk, lan)
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
