"""A node is killed again and again: `make bench-recovery` measures the time to the next new step, and where it
goes, beside Ray Train.

A run computes on three nodes of a local cluster. One of them is killed; a moment after the run has gone on, another joins, and
once its worker takes part the next one is killed.
"""

from __future__ import annotations

import argparse
import random
import statistics
import tempfile
import time
from pathlib import Path

from tests.benchmarks import plain_ray_train
from tests.benchmarks.small_runs import machine, standard_library
from tests.chaos.run import Run
from tests.chaos.site import RESOURCES, Site

from foundray.cluster.local.cluster import LocalCluster
from foundray.testing.specs import small_spec, write_spec
from foundray.testing.waiting import wait_until

NODES, MIRROR_EVERY, LIMIT = 3, 1, 120.0
NODES_IN_TEAMS = 4
"""Two teams of two: the loss of a worker leaves one, and a worker that waits."""
STAGES = {
    "broken": "the driver knows why the group broke",
    "joined": "the remaining workers have their state and data, in a new group",
    "step": "a step is done that was not done before",
}
"""What is measured, in seconds since the kill."""


def spec_of(folder: Path, nodes: int, team: int) -> Path:
    text = standard_library(folder / "source.txt")
    spec = small_spec(text, folder / "runs", model__width=128, model__depth=4, model__context=64)
    train = {"steps": 10**6, "micro_batches": 6, "micro_batch_size": 8, "evaluate_every": 10**6, "checkpoint_every": 1000}
    scale = {"workers": [team, nodes], "team": team, "resources": {"CPU": 1}}
    fault = {"mirror_every": MIRROR_EVERY}
    return write_spec(folder, {**spec, "train": train, "scale": scale, "fault": fault})


def kill(run: Run, node: str) -> dict[str, float]:
    """Kill a node, and wait for a new step; returns seconds by stage, and the steps repeated."""
    killed = time.time()
    run.cluster.kill(node)
    return wait_until(lambda: _after(run, killed), LIMIT, lambda: f"a new step: {run.events()[-5:]}", run.process)


def _after(run: Run, killed: float) -> dict[str, float]:
    """What is measured after a kill; empty until a new step is recorded."""
    events = [event for event in run.events() if event["time"] > killed]
    steps = run.steps()
    if (joined := next((event for event in events if event["event"] == "workers_started"), None)) is None:
        return {}
    highest = max(one["step"] for one in steps if one["time"] < joined["time"])
    first = [one for one in steps if one["time"] > joined["time"]]
    if (new := next((one for one in first if one["step"] > highest), None)) is None:
        return {}
    broken = next(event["time"] for event in events if event["event"] == "group_broken")
    times = {"broken": broken, "joined": joined["time"], "step": new["time"]}
    first = [one for one in first if one["time"] <= new["time"]]
    waited, worked = (sum(one[name] for one in first) for name in ("data_wait_s", "step_s"))
    seconds = {name: at - killed for name, at in times.items()}
    return seconds | {"repeated": highest - joined["step"], "waited": waited, "worked": worked}


def grow(run: Run, nodes: int) -> None:
    """Add a node, and wait until its worker takes part and some steps are done."""
    began = time.time()
    run.cluster.add(RESOURCES)

    def is_full() -> bool:
        events = [event for event in run.events() if event["time"] > began]
        return any(event["event"] == "workers_started" and event["workers"] == nodes for event in events)

    run.wait_for(is_full, "a full group", LIMIT)
    run.wait_for_step(run.step() + 10)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=30)
    parser.add_argument("--team", type=int, default=1, choices=(1, 2), help="workers that hold one copy of the model")
    options = parser.parse_args()
    nodes = NODES if options.team == 1 else NODES_IN_TEAMS
    print(machine(), flush=True)
    dealer, found = random.Random(0), list[dict[str, float]]()
    with tempfile.TemporaryDirectory() as scratch:
        cluster = LocalCluster.up(nodes, RESOURCES, Path(tempfile.mkdtemp(prefix="fr-")), dashboard=False)
        run = Run(cluster, spec_of(Path(scratch), nodes, options.team), "killed")
        try:
            run.wait_for_step(30)
            for _ in range(options.kills):
                time.sleep(dealer.uniform(0.5, 1.5))
                found.append(kill(run, dealer.choice(Site(cluster).nodes())))
                print("  ".join(f"{name} {value:.2f}" for name, value in found[-1].items()), flush=True)
                grow(run, nodes)
        finally:
            run.end()
            cluster.down()
    for name, what in STAGES.items():
        values = [one[name] for one in found]
        print(f"{what:70}{statistics.median(values):8.2f}{max(values):8.2f}")
    print(f"steps repeated, at most {max(one['repeated'] for one in found):.0f}")
    if options.team > 1:
        return
    for name, quick in (("shortened settings", True), ("default settings", False)):
        with tempfile.TemporaryDirectory() as scratch:
            seconds, repeated = plain_ray_train.recovery(Path(scratch), quick)
        print(f"{f'Ray Train, {name}: a new step after one kill':70}{seconds:8.2f}; {repeated} steps repeated", flush=True)


if __name__ == "__main__":
    main()
