"""One of three workers is slow: `make bench-faults`, beside equal shares in the same run."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from tests import hooked
from tests.benchmarks.small_runs import standard_library, steps_of
from tests.command import FOUNDRAY

from foundray.cluster.local.cluster import LocalCluster
from foundray.testing.specs import small_spec, write_spec

CPU = {"CPU": 1.0}


def compare(folder: Path) -> None:
    """Three workers, one at a third of the speed: throughput beside the sum of the speeds, and beside equal shares."""
    paths = [str(hooked.install(folder)), str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH")]
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, paths))
    micro_batches, fast = 64, 0.03
    spec = small_spec(standard_library(folder / "source.txt"), folder / "runs", objective={"kind": "hooked"})
    spec["train"] |= {"steps": 25, "micro_batches": micro_batches, "micro_batch_size": 2, "checkpoint_every": 10**6}
    spec["train"]["evaluate_every"] = 10**6
    spec["data"]["holdout"] = 0.001
    spec |= {"scale": {"workers": [3, 3], "resources": {"CPU": 1}}}
    path = write_spec(folder, spec)
    results: dict[str, tuple[float, str]] = {}
    for name, slow in (("no skew", fast), ("shares by speed", 3 * fast), ("equal shares", 3 * fast)):
        cluster = LocalCluster.up(0, CPU, Path(tempfile.mkdtemp(prefix="fr-")))
        for node, seconds in enumerate((fast, fast, slow)):
            cluster.add(CPU, environment=hooked.Pace(folder / f"pace-{node}", seconds).environment)
        where = {**cluster.environment, "FOUNDRAY_LOCAL_CLUSTER": str(cluster.folder)}
        label = name.replace(" ", "-")
        module = "tests.benchmarks.equal_shares" if name == "equal shares" else None
        command = [sys.executable, "-m", module, path, label] if module else [FOUNDRAY, "train", path, "--set", f"name={label}"]
        try:
            subprocess.run(list(map(str, command)), env={**os.environ, **where}, check=True, stdout=subprocess.DEVNULL)
        finally:
            cluster.down()
        run = folder / "runs" / label
        seconds = statistics.median(r["step_s"] for r in steps_of(run)[5:])
        finished = json.loads((run / "events.jsonl").read_text().splitlines()[-1])
        results[name] = (micro_batches / seconds, finished["weights_sha256"])
    even = results["no skew"][0]
    ideal = even * (1 + 1 + 1 / 3) / 3
    print(f"\none worker of three at a third of the speed\n{'':44}{'micro-batches/s':>16}{'of the ideal':>14}")
    for name, (speed, _) in results.items():
        print(f"{name:44}{speed:16.1f}{speed / (even if name == 'no skew' else ideal):14.2f}")
    print("the weights are the same bits:", len({sha for _, sha in results.values()}) == 1, flush=True)


def main() -> None:
    with tempfile.TemporaryDirectory() as scratch:
        compare(Path(scratch))


if __name__ == "__main__":
    main()
