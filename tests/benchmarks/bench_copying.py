"""Cost of copying the state: a checkpoint beside torch's own ways in one process, and mirroring in a run of two workers.

`python -m tests.benchmarks.bench_copying`; both parts run here, one after the other.
"""

from __future__ import annotations

import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
import yaml
from tests.benchmarks.small_runs import standard_library, steps_of

from foundray.contract import UnitShape, load_objective
from foundray.model.model import Model, initialise
from foundray.spec.loading import parse_spec
from foundray.storage import Store
from foundray.testing.specs import small_spec, write_spec
from foundray.training.checkpoints.checkpoint import write_shard
from foundray.training.step.flat import part
from foundray.training.step.trainer import Trainer

TURNS, MIRROR_EVERY = 3, 2


def checkpoints(folder: Path) -> None:
    """(seconds that a step is delayed, seconds until everything is written), for a state of more than 200 MB."""
    spec = small_spec(folder, folder, model={"width": 768, "depth": 6, "heads": 12, "context": 128})
    checked = parse_spec(yaml.safe_dump(spec), "benchmark")
    objective = load_objective("next_token", {})
    model = Model(checked.model, objective, UnitShape(classes=257))
    initialise(model, 1)
    trainer = Trainer(checked, model, objective)
    size = sum(tensor.nbytes for tensor in trainer.state_shard().values())
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT="29411", RANK="0", WORLD_SIZE="1")
    dist.init_process_group("gloo")

    def state() -> dict[str, Any]:
        return {"master": part(trainer.buffer, trainer.own), **trainer.optimizer.tensors()}

    def ours(at: Path) -> tuple[float, float]:
        began = time.perf_counter()
        piece = trainer.state_shard()
        held = time.perf_counter() - began
        write_shard(Store.at(at), 1, trainer.blocks, piece)
        return held, time.perf_counter() - began

    def torch_save(at: Path) -> tuple[float, float]:
        began = time.perf_counter()
        at.mkdir()
        with (at / "state.pt").open("wb") as file:
            torch.save(state(), file)
            file.flush()
            os.fsync(file.fileno())
        return (took := time.perf_counter() - began), took

    def dcp_async(at: Path) -> tuple[float, float]:
        began = time.perf_counter()
        under_way: Any = dcp.async_save(state(), checkpoint_id=str(at))
        held = time.perf_counter() - began
        under_way.result()
        return held, time.perf_counter() - began

    ways: dict[str, Callable[[Path], tuple[float, float]]] = {
        "foundray": ours, "torch.save, fsync": torch_save, "torch.distributed.checkpoint.async_save": dcp_async,
    }  # fmt: skip
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in ways}
    for turn in range(TURNS):
        for name, way in ways.items():
            found[name].append(way(folder / f"{name.replace(' ', '-')}-{turn}"))
    dist.destroy_process_group()
    print(f"\na checkpoint of {size / 1e6:.0f} MB\n{'':42}{'delay of a step, s':>20}{'total, s':>10}{'s per GB':>10}")
    for name, values in found.items():
        held, whole = (statistics.median(value[part] for value in values) for part in (0, 1))
        print(f"{name:42}{held:20.3f}{whole:10.2f}{whole / size * 1e9:10.2f}", flush=True)


def mirroring(folder: Path) -> None:
    """Mean seconds per step of two workers, with default mirroring and without, in turn on one Ray."""
    import foundray
    from foundray.cluster.connect import connected

    spec = small_spec(
        standard_library(folder / "source.txt"), folder / "runs", model={"width": 256, "depth": 4, "heads": 4, "context": 64}
    )
    spec["train"] |= {"steps": 60, "micro_batches": 8, "micro_batch_size": 8, "evaluate_every": 10**6}
    spec["train"]["checkpoint_every"] = 10**6
    spec["data"]["holdout"] = 0.001
    spec["scale"] = {"workers": 2, "resources": {"CPU": 1}}
    path = write_spec(folder, spec)
    foundray.prepare(path)
    ratios, shares = [], []
    with connected():
        for turn in range(TURNS):
            means = {}
            for every in (MIRROR_EVERY, 10**6):
                name = f"mirror-{every}-{turn}"
                foundray.train(path, {"name": name, "fault.mirror_every": every})
                steps = steps_of(folder / "runs" / name)[10:]
                means[every] = statistics.mean(record["step_s"] + record["copy_s"] for record in steps)
                if every == MIRROR_EVERY:
                    shares.append(sum(record["copy_s"] for record in steps) / sum(record["step_s"] for record in steps))
            ratios.append(means[MIRROR_EVERY] / means[10**6])
    print(f"\nmirroring every {MIRROR_EVERY} steps, two workers, 3.2M parameters")
    print(f"time of a step beside none: {statistics.median(ratios):.3f} ({min(ratios):.3f} .. {max(ratios):.3f})")
    print(f"of which copying and handing over: {statistics.median(shares):.2%} of the step", flush=True)


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as scratch:
        checkpoints(Path(scratch))
    with tempfile.TemporaryDirectory() as scratch:
        mirroring(Path(scratch))
