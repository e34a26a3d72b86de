"""This trainer beside a plain PyTorch loop, turn about in one run: `make bench`.

The plain loop is what one would write without a platform: one process, the same model and batch (taken whole), torch's
fused AdamW, no micro-batches, no sharding, no checkpoints. Everything runs with one thread. Medians of the steady state
(the first steps are left out) over several turns, since a shared machine's speed drifts.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import yaml
from tests.conftest import write_spec

STEPS, WARM_UP, TURNS = 50, 10, 3
VARIANTS: dict[str, dict[str, Any]] = {
    "adamw, exact": {"optimizer.kind": "adamw"},
    "adamw, rounded": {"optimizer.kind": "adamw", "train.exact": False},
    "adamw8bit, exact": {"optimizer.kind": "adamw8bit"},
}


def spec(source: Path, storage: Path, micro_batch_size: int) -> dict[str, Any]:
    return {
        "name": "bench",
        "data": {"sources": [{"path": str(source)}], "holdout": 0.01, "tokenizer": {"kind": "char"}},
        "objective": {"kind": "next_token"},
        "model": {"width": 128, "depth": 4, "heads": 4, "context": 64},
        "optimizer": {"kind": "adamw", "lr": 4e-3},
        "train": {
            "steps": STEPS, "micro_batches": 4, "micro_batch_size": micro_batch_size,
            "evaluate_every": 10**6, "checkpoint_every": 10**6,
        },
        "storage": str(storage),
    }  # fmt: skip


def ours(path: Path, name: str, changes: dict[str, Any]) -> dict[str, Any]:
    """Steady-state tokens/s, the share of time spent waiting for data, and the start-up by parts."""
    import foundray

    began = time.time()
    foundray.train(path, {**changes, "name": name})
    run = Path(yaml.safe_load(path.read_text())["storage"]) / name
    metrics = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()][WARM_UP:]
    events = {e["event"]: e for e in map(json.loads, (run / "events.jsonl").read_text().splitlines())}
    member = events["member_ready"]
    first = json.loads((run / "metrics.jsonl").read_text().splitlines()[0])
    return {
        "speed": statistics.median(record["tokens_per_s"] for record in metrics),
        "data wait": sum(record["data_wait_s"] for record in metrics) / sum(record["step_s"] for record in metrics),
        "start-up": {
            "Ray and data": events["command"]["time"] - began,
            "places": member["time"] - member["seconds"] - events["command"]["time"],
            "member's process": member["seconds"] - member["model_s"],
            "model": member["model_s"],
            "first step": first["time"] - events["workers_started"]["time"],
        },
    }


def plain(path: Path) -> float:
    """Steady-state tokens/s of the plain loop, in a process of its own."""
    done = subprocess.run([sys.executable, "-m", __spec__.name, str(path)], capture_output=True, text=True, check=True)
    return float(done.stdout.splitlines()[-1])


def plain_loop(path: Path) -> float:
    import torch
    from torch.nn import functional as F

    from foundray.contract import UnitShape, load_objective
    from foundray.data.manifest import Prepared
    from foundray.data.recipe import prepared_folder
    from foundray.data.stream import plan_for, read_samples
    from foundray.loading import load_spec
    from foundray.model.model import Batch, Model, initialise
    from foundray.training.schedule import lr_factor

    torch.set_num_threads(1)
    checked = load_spec(path)
    prepared = Prepared.open(prepared_folder(checked)[0])
    size = checked.samples_per_step
    samples = read_samples(replace(plan_for(prepared, checked), micro_batch_size=size), 0, STEPS)
    tokens = torch.tensor(samples.column("tokens").to_pylist())
    vocabulary = prepared.manifest.vocabulary
    model = Model(checked.model, load_objective("next_token", {}), UnitShape(classes=vocabulary))
    initialise(model, checked.seed)
    decayed = [p for p in model.parameters() if p.dim() > 1]
    others = [p for p in model.parameters() if p.dim() < 2]
    groups = [{"params": decayed, "weight_decay": 0.1}, {"params": others, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, betas=checked.optimizer.betas, fused=True)
    seconds = []
    for step in range(STEPS):
        began = time.perf_counter()
        batch = tokens[step * size : (step + 1) * size]
        shown, asked = batch[:, :-1], batch[:, 1:]
        everywhere = torch.ones_like(shown, dtype=torch.bool)
        logits = model(Batch(shown, everywhere, None, None, None, {"lm_head": (asked, everywhere)}, padded=False))["lm_head"]
        loss = F.cross_entropy(logits.flatten(0, 1), asked.flatten())
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for group in optimizer.param_groups:
            group["lr"] = checked.optimizer.lr * lr_factor(checked.schedule, step, STEPS)
        optimizer.step()
        loss.item()
        seconds.append(time.perf_counter() - began)
    return checked.tokens_per_step / statistics.median(seconds[WARM_UP:])


def table(path: Path, label: str, variants: dict[str, dict[str, Any]]) -> None:
    """Every variant and the plain loop, turn about in one Ray, and their ratio: of neighbours, then the median over turns."""
    ratios: dict[str, list[float]] = {name: [] for name in variants}
    speeds: dict[str, list[float]] = {name: [] for name in variants}
    waits: list[float] = []
    for turn in range(TURNS):
        before = plain(path)
        for name, changes in variants.items():
            measured = ours(path, f"{label}-{name}-{turn}".replace(" ", "-").replace(",", ""), changes)
            after = plain(path)
            # The peer runs on both sides of each variant, so that a change of the machine's speed falls on both.
            ratios[name].append(measured["speed"] / statistics.mean([before, after]))
            speeds[name].append(measured["speed"])
            waits.append(measured["data wait"])
            before = after
    print(f"\n{label}\n{'':22}{'tokens/s':>12}{'of the plain loop':>20}{'least .. most':>16}")
    for name, values in ratios.items():
        spread = f"{min(values):.2f} .. {max(values):.2f}"
        print(f"{name:22}{statistics.median(speeds[name]):12,.0f}{statistics.median(values):20.3f}{spread:>16}")
    print(f"waiting for data: {max(waits):.2%} of the time at most", flush=True)
    if len(variants) == len(VARIANTS):
        exact, rounded, narrow = (statistics.median(ratios[name]) for name in VARIANTS)
        print(
            f"time of a step: exact against rounded {rounded / exact - 1:+.1%}, 8-bit against 32-bit {exact / narrow - 1:+.1%}",
            flush=True,
        )


def main() -> None:
    import sysconfig

    import foundray
    from foundray.cluster import connected

    stdlib = sorted(Path(sysconfig.get_paths()["stdlib"]).glob("*.py"))
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "source.txt"
        text = "".join(file.read_text(encoding="utf-8", errors="ignore") for file in stdlib)
        source.write_text("".join(c for c in text if c.isascii())[:1_500_000])
        paths = {}
        for size in (12, 3):
            (at := Path(folder) / str(size)).mkdir()
            paths[size] = write_spec(at, spec(source, at / "runs", size))
            foundray.prepare(paths[size])
        start = ours(paths[12], "cold", {})["start-up"]
        print("start-up of a run, s: " + ", ".join(f"{part} {seconds:.1f}" for part, seconds in start.items()), flush=True)
        with connected():
            table(paths[12], "0.8M parameters, step of 4 micro-batches of 12 x 64 tokens", VARIANTS)
            few = {"adamw, exact": VARIANTS["adamw, exact"]}
            table(paths[3], "0.8M parameters, step of 4 micro-batches of 3 x 64 tokens", few)


if __name__ == "__main__":
    if len(sys.argv) > 1:
        print(plain_loop(Path(sys.argv[1])))
    else:
        main()
