"""A run of plain Ray Train that loses a node: the peer of `bench_recovery`."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

from foundray.cluster.local.cluster import LocalCluster

CPU = {"CPU": 1.0}
SHORTENED = {"RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.5", "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": "10"}
"""Settings with which Ray Train notices a lost node earlier than by default."""
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


def recovery(folder: Path, quick: bool) -> tuple[float, int]:
    """Kill one of three nodes; returns the seconds until a new step, and the steps repeated; `quick` shortens Ray's waits."""
    from foundray.cluster.local.ray_start import HEALTH_CHECKS

    checks = dict(HEALTH_CHECKS)
    if not quick:
        HEALTH_CHECKS.clear()  # Ray's own patience
    cluster = LocalCluster.up(3, CPU, Path(tempfile.mkdtemp(prefix="fr-")))
    HEALTH_CHECKS.update(checks)
    script, log = folder / "plain.py", folder / f"plain-{quick}.jsonl"
    script.write_text(PLAIN)
    command = [sys.executable, str(script), cluster.address, str(log), str(folder / f"plain-{quick}")]
    process = subprocess.Popen(
        command, env={**os.environ, **cluster.environment, **(SHORTENED if quick else {})}, stderr=subprocess.DEVNULL
    )

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
