"""A node is killed, a worker is slow: `make bench-faults`, each beside a peer in the same run.

Everything runs on a local cluster of several nodes on this machine (`foundray cluster up --local`).
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

from tests import hooked
from tests.chaos.faults import Run, remove
from tests.command import FOUNDRAY

from foundray.cluster.local.cluster import LocalCluster
from foundray.testing.specs import small_spec, write_spec

MIRROR_EVERY = 2
"""As in the default spec."""
CPU = {"CPU": 1.0}


def text(folder: Path) -> Path:
    import sysconfig

    files = sorted(Path(sysconfig.get_paths()["stdlib"]).glob("*.py"))
    source = folder / "source.txt"
    joined = "\n".join(file.read_text(encoding="utf-8", errors="ignore") for file in files)
    source.write_text("".join(c for c in joined if c.isascii())[:1_500_000])
    return source


def steps_of(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


# A node is killed


def recovery(folder: Path) -> None:
    """Print the seconds from the kill of one of three nodes to the next new step, and the number of repeated steps."""
    print(f"\na node of three is killed\n{'':44}{'s to a new step':>16}{'steps repeated':>16}", flush=True)
    for turn in range(2):
        print(f"{'foundray, turn ' + str(turn + 1):44}{_row(*_ours(folder, turn))}", flush=True)
    short = {"RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.5", "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": "10"}
    print(f"{'Ray Train, shortened settings':44}{_row(*_plain(folder, short, quick=True))}", flush=True)
    print(f"{'Ray Train, default settings':44}{_row(*_plain(folder, {}, quick=False))}", flush=True)


def _row(seconds: float, repeated: int) -> str:
    return f"{seconds:16.1f}{repeated:16d}"


def _ours(folder: Path, turn: int) -> tuple[float, int]:
    spec = small_spec(text(folder), folder / "runs", model__width=128, model__depth=4, model__context=64)
    spec["train"] |= {"steps": 2000, "micro_batches": 6, "micro_batch_size": 8, "evaluate_every": 10**6, "checkpoint_every": 20}
    spec |= {"scale": {"workers": [1, 3], "resources": {"CPU": 1}}, "fault": {"mirror_every": MIRROR_EVERY}}
    cluster = LocalCluster.up(3, CPU, Path(tempfile.mkdtemp(prefix="fr-")))
    run = Run(cluster, write_spec(folder, spec), f"ours-{turn}")
    try:
        run.wait_for_step(65)
        time.sleep(0.7 * turn)
        killed = time.time()
        cluster.kill("node-2")
        return _after(killed, lambda: [(r["time"], r["step"]) for r in steps_of(run.folder)])
    finally:
        run.kill()
        cluster.down()


def _after(killed: float, read: Callable[[], list[tuple[float, int]]], limit: float = 300) -> tuple[float, int]:
    """(time of the first new step after the kill's pause, number of steps repeated before it)."""
    while time.time() < killed + limit:
        steps = read()
        pauses = [(after[0] - before[0], i) for i, (before, after) in enumerate(pairwise(steps), 1) if after[0] > killed]
        if pauses and max(pauses)[0] > 0.5:
            resumed = max(pauses)[1]
            highest = max(step for _, step in steps[:resumed])
            if new := next((at for at, step in steps[resumed:] if step > highest), None):
                return new - killed, sum(step <= highest for _, step in steps[resumed:])
        time.sleep(0.2)
    raise TimeoutError("no step after the kill")


PLAIN = """
import json, os, sys, tempfile, time
import ray, torch
import ray.train
from pathlib import Path
from ray.train import Checkpoint, CheckpointConfig, FailureConfig, RunConfig, ScalingConfig
from ray.train.torch import TorchTrainer, prepare_model

def loop(config):
    from foundray.contract import UnitShape, load_objective
    from foundray.model.model import Batch, Model, initialise
    from foundray.spec import ModelConfig as Shape
    torch.set_num_threads(1)
    model = Model(Shape(width=128, depth=4, heads=2, context=64), load_objective("next_token", {}), UnitShape(classes=257))
    initialise(model, 1)
    model = prepare_model(model)
    optimizer = torch.optim.AdamW(model.parameters(), lr=4e-3)
    step = 0
    if (checkpoint := ray.train.get_checkpoint()) is not None:
        with checkpoint.as_directory() as folder:
            state = torch.load(Path(folder) / "state.pt", weights_only=True)
        model.module.load_state_dict(state["model"]) if hasattr(model, "module") else model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        step = state["step"]
    context = ray.train.get_context()
    while step < 100000:
        x = torch.randint(0, 257, (16, 65))
        everywhere = torch.ones(16, 64, dtype=torch.bool)
        logits = model(Batch(x[:, :-1], everywhere, None, None, None, {"lm_head": (x[:, 1:], everywhere)}, False))["lm_head"]
        loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), x[:, 1:].flatten())
        optimizer.zero_grad(); loss.backward(); optimizer.step()
        step += 1
        if context.get_world_rank() == 0:
            with open(config["log"], "a") as log: log.write(json.dumps({"time": time.time(), "step": step}) + "\\n")
        if step % 20 == 0:
            with tempfile.TemporaryDirectory() as folder:
                kept = None
                if context.get_world_rank() == 0:
                    inner = model.module if hasattr(model, "module") else model
                    state = {"model": inner.state_dict(), "optimizer": optimizer.state_dict(), "step": step}
                    torch.save(state, Path(folder) / "state.pt")
                    kept = Checkpoint.from_directory(folder)
                ray.train.report({"step": step}, checkpoint=kept)

address, log, storage = sys.argv[1:]
ray.init(address=address, _node_ip_address=address.rpartition(":")[0], log_to_driver=False)
TorchTrainer(
    loop, train_loop_config={"log": log},
    scaling_config=ScalingConfig(num_workers=(1, 3), resources_per_worker={"CPU": 1}),
    run_config=RunConfig(name="plain", storage_path=storage, failure_config=FailureConfig(max_failures=-1),
                         checkpoint_config=CheckpointConfig(num_to_keep=2)),
).fit()
"""


def _plain(folder: Path, settings: dict[str, str], quick: bool) -> tuple[float, int]:
    from foundray.cluster.local.ray_start import HEALTH_CHECKS

    checks = dict(HEALTH_CHECKS)
    if not quick:
        HEALTH_CHECKS.clear()  # Ray's own patience
    cluster = LocalCluster.up(3, CPU, Path(tempfile.mkdtemp(prefix="fr-")))
    HEALTH_CHECKS.update(checks)
    script, log = folder / "plain.py", folder / f"plain-{quick}.jsonl"
    script.write_text(PLAIN)
    command = [sys.executable, str(script), cluster.address, str(log), str(folder / f"plain-{quick}")]
    process = subprocess.Popen(command, env={**os.environ, **cluster.environment, **settings}, stderr=subprocess.DEVNULL)

    def read() -> list[tuple[float, int]]:
        lines = log.read_text().splitlines() if log.exists() else []
        return [(r["time"], r["step"]) for r in map(json.loads, lines)]

    try:
        while not read() or read()[-1][1] < 65:
            assert process.poll() is None
            time.sleep(0.1)
        killed = time.time()
        cluster.kill("node-2")
        return _after(killed, read)
    finally:
        process.kill()
        process.wait()
        cluster.down()


# A worker is slow


def skew(folder: Path) -> None:
    """Three workers, one at a third of the speed: throughput beside the sum of the speeds, and beside equal shares."""
    paths = [str(hooked.install(folder)), str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH")]
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, paths))
    micro_batches, fast = 64, 0.03
    spec = small_spec(text(folder), folder / "runs", objective={"kind": "hooked"})
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
    parts = {"recovery": recovery, "skew": skew}
    with tempfile.TemporaryDirectory() as scratch:
        for name in sys.argv[1:] or parts:
            (folder := Path(scratch) / name).mkdir()
            parts[name](folder)
            remove(folder)


if __name__ == "__main__":
    main()
