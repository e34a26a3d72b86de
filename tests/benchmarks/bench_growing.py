"""A node joins: `make bench-growing` measures when a worker on it takes part, and what happens in between.

A run computes on two nodes of a local cluster. Again and again a third node joins, and is killed once its worker takes part.
The nodes share this machine, so the run's workers rest between micro-batches: on machines of their own they would not
take a core from the processes that start.
"""

from __future__ import annotations

import argparse
import os
import random
import statistics
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

from tests import hooked
from tests.chaos.run import Run
from tests.chaos.site import RESOURCES as CPU

from foundray.cluster.connect import connected
from foundray.cluster.local.cluster import LocalCluster
from foundray.testing.specs import small_spec, write_spec
from foundray.testing.waiting import wait_until

STAGES = {
    "resized": "Ray Train has given its slots back, to resize",
    "reserved": "Ray Train has reserved the new ones",
    "holder": "Ray Train's process on the node is there",
    "held": "all of its processes are there, and hold the slots",
    "started": "our worker on the node is started",
    "ready": "our worker has imported, and built its model",
    "joined": "it takes part in a group",
}
"""What is measured, in seconds since Ray lists the node."""
REST = 0.05
"""Seconds between micro-batches."""
LIMIT = 180.0


class Watch:
    """Times of what Ray and the run do after a node was added, seen from beside."""

    def __init__(self, run: Run, name: str, size: int):
        self.run, self.name, self.size = run, name, size
        self.node = ""
        self.reservations = {key for key, _ in reservations()}
        self.begun = time.time()
        self.times: dict[str, float] = {}
        """Wall-clock times by stage."""

    def joined(self) -> bool:
        """Look once. Returns whether the worker on the new node takes part."""
        import ray

        if not self.node:
            self.node = next((n["NodeID"] for n in ray.nodes() if n["Alive"] and n["NodeName"] == self.name), "")
            self._see("registered", bool(self.node))
        new = [found for key, found in reservations() if key not in self.reservations and len(found["bundles"]) == self.size]
        self._see("resized", bool(new))
        self._see("reserved", any(found["state"] == "CREATED" for found in new))
        if "reserved" in self.times and "held" not in self.times:
            at = holders()
            self._see("holder", self.node in at)
            self._see("held", self.node in at and len(at) == self.size)
        events = [event for event in self.run.events() if event["time"] > self.begun]
        for event in events:
            if event["event"] == "member_ready" and event["node"] == self.name:
                self.times |= {"started": event["time"] - event["seconds"], "ready": event["time"]}
            elif event["event"] == "workers_started" and event["workers"] == self.size:
                self.times["joined"] = event["time"]
        return "joined" in self.times

    def _see(self, stage: str, seen: bool) -> None:
        if seen:
            self.times.setdefault(stage, time.time())

    def seconds(self) -> dict[str, float]:
        """Seconds from the node's registration to each stage seen."""
        return {stage: self.times[stage] - self.times["registered"] for stage in STAGES if stage in self.times}


def reservations() -> list[tuple[str, dict[str, Any]]]:
    """Ray Train's placement groups."""
    import ray

    return [(key, found) for key, found in ray.util.placement_group_table().items() if found["state"] != "REMOVED"]


def holders() -> list[str]:
    """Nodes of the living processes that hold Ray Train's slots."""
    from ray._private.state import state  # the public call needs a dashboard

    actors = state.actor_table(None, None, "ALIVE").values()
    return [actor["Address"]["NodeID"] for actor in actors if actor["ActorClassName"] == "RayTrainWorker"]


def begin(folder: Path, cluster: LocalCluster, environment: dict[str, str]) -> Run:
    """Start a run on two nodes that does not end by itself."""
    for _ in range(2):
        cluster.add(CPU, environment=environment)
    source = folder / "text.txt"
    source.write_text("".join(chr(97 + n * n % 26) for n in range(1, 400_000)))
    changes = {"objective": {"kind": "hooked"}, "scale": {"workers": [1, 4], "resources": {"CPU": 1}}}
    spec = small_spec(source, folder / "runs", model__width=64, **changes)
    spec["train"] |= {"steps": 10**6, "micro_batches": 12, "micro_batch_size": 4, "evaluate_every": 10**6}
    spec["train"]["checkpoint_every"] = 10**6
    return Run(cluster, write_spec(folder, spec), "growing")


def join(cluster: LocalCluster, run: Run, environment: dict[str, str], phase: float) -> dict[str, float]:
    """Add a node, wait until its worker takes part, and kill it; begin `phase` seconds after the last one is settled."""
    wait_until(lambda: settled(run, 2), LIMIT, "two workers in slots", run.process, pause=0.5)
    time.sleep(phase)
    watch = Watch(run, f"node-{cluster.added + 1}", 3)
    adding = threading.Thread(target=cluster.add, args=(CPU,), kwargs={"environment": environment})
    adding.start()
    try:
        wait_until(watch.joined, LIMIT, lambda: f"a group of three: {run.events()[-5:]}", run.process, pause=0.1)
    except TimeoutError as error:
        print(error, flush=True)
    adding.join()
    wait_until(lambda: settled(run, 3), LIMIT, "three workers in slots", run.process, pause=0.5)
    cluster.kill(watch.name)
    print(", ".join(f"{stage} {seconds:.1f}" for stage, seconds in watch.seconds().items()), flush=True)
    return watch.seconds()


def settled(run: Run, size: int) -> bool:
    """Whether the newest group has this many workers, and Ray Train holds their slots."""
    groups = [event for event in run.events() if event["event"] == "workers_started"]
    return bool(groups) and groups[-1]["workers"] == size == len(holders())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--joins", type=int, default=5)
    joins: int = parser.parse_args().joins
    dealer = random.Random(0)
    with tempfile.TemporaryDirectory(prefix="fr-") as scratch:
        folder = Path(scratch)
        os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(hooked.install(folder)), os.environ.get("PYTHONPATH")]))
        environment = hooked.Pace(folder / "pace", REST).environment
        cluster = LocalCluster.up(0, CPU, folder / "c", dashboard=False)
        os.environ |= {**cluster.environment, "FOUNDRAY_LOCAL_CLUSTER": str(cluster.folder)}
        run = begin(folder, cluster, environment)
        try:
            with connected():
                # Ray's coordinator looks at the cluster every 20 s: joins fall anywhere in between.
                rows = [join(cluster, run, environment, dealer.uniform(0, 20)) for _ in range(joins)]
        finally:
            run.end()
            cluster.down()
    table(rows)


def table(rows: list[dict[str, float]]) -> None:
    """Print the seconds of every join, their median and the worst."""
    print(f"\nseconds since Ray lists the new node{'':20}{'median':>8}{'worst':>8}  each")
    for stage, meaning in STAGES.items():
        seen = [row[stage] for row in rows if stage in row]
        each = " ".join(f"{row[stage]:5.1f}" if stage in row else "    –" for row in rows)
        print(f"{meaning:55}{statistics.median(seen):8.1f}{max(seen):8.1f}  {each}" if seen else f"{meaning:55} never")


if __name__ == "__main__":
    main()
