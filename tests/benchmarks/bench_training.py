"""This trainer beside plain PyTorch loops, in turn in one run: `make bench`.

`plain_loops` describes the loops. The plain loop has one thread, and the trainer beside it is one worker with one thread. The
usual loop has all threads, and the trainer beside it has what a spec without `scale` gets. Figures are medians of the steady
state (without the first steps) over several turns, since a shared machine's speed drifts.
"""

from __future__ import annotations

import json
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import yaml
from tests.benchmarks import plain_loops
from tests.benchmarks.small_runs import NEVER, SETTLED_SECONDS, standard_library

from foundray.testing.specs import write_spec

TURNS = 3
STEPS = {12: 90, 3: 280}
"""Steps by the size of a micro-batch: half a minute's, without the first half (`SETTLED_SECONDS`)."""
VARIANTS: dict[str, dict[str, Any]] = {
    "adamw, exact": {"optimizer.kind": "adamw"},
    "adamw, rounded": {"optimizer.kind": "adamw", "train.exact": False},
    "adamw8bit, exact": {"optimizer.kind": "adamw8bit"},
}
ALONE = {"scale.workers": 1, "scale.threads": 1}
SIZES = {12: "12 x 64", 3: "3 x 64"}
"""Samples per micro-batch."""


def spec(source: Path, storage: Path, micro_batch_size: int) -> dict[str, Any]:
    return {
        "name": "bench",
        "data": {"sources": [{"path": str(source)}], "holdout": 0.01, "tokenizer": {"kind": "char"}},
        "objective": {"kind": "next_token"},
        "model": {"width": 128, "depth": 4, "heads": 4, "context": 64},
        "optimizer": {"kind": "adamw", "lr": 4e-3},
        "train": {
            "steps": STEPS[micro_batch_size], "micro_batches": 4, "micro_batch_size": micro_batch_size,
            "evaluate_every": NEVER, "checkpoint_every": NEVER,
        },
        "storage": str(storage),
    }  # fmt: skip


def ours(path: Path, name: str, changes: dict[str, Any]) -> dict[str, Any]:
    """Run it. Returns steady-state tokens/s, the fraction of time spent waiting for data, and the start-up by parts."""
    import foundray

    began = time.time()
    foundray.train(path, {**changes, "name": name})
    run = Path(yaml.safe_load(path.read_text())["storage"]) / name
    metrics = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    first = metrics[0]
    metrics = [record for record in metrics if record["time"] >= first["time"] + SETTLED_SECONDS]
    events = {e["event"]: e for e in map(json.loads, (run / "events.jsonl").read_text().splitlines())}
    worker = events["member_ready"]
    return {
        "speed": statistics.median(record["tokens_per_s"] for record in metrics),
        "data wait": sum(record["data_wait_s"] for record in metrics) / sum(record["step_s"] for record in metrics),
        "start-up": {
            "Ray and data": events["command"]["time"] - began,
            "slots": worker["time"] - worker["seconds"] - events["command"]["time"],
            "worker's process": worker["seconds"] - worker["model_s"],
            "model": worker["model_s"],
            "first step": first["time"] - events["workers_started"]["time"],
        },
    }


def table(path: Path, label: str, variants: dict[str, dict[str, Any]], loop: str, scale: dict[str, Any]) -> None:
    """Measure every variant and the loop in turn on one Ray. Ratios are those of neighbours, then the median over turns."""
    ratios: dict[str, list[float]] = {name: [] for name in variants}
    speeds: dict[str, list[float]] = {name: [] for name in variants}
    waits: list[float] = []
    for turn in range(TURNS):
        before = plain_loops.measured(loop, path)
        for name, changes in variants.items():
            run = f"{label}-{loop}-{name}-{turn}".replace(" ", "-").replace(",", "")
            measured = ours(path, run, {**changes, **scale})
            after = plain_loops.measured(loop, path)
            # The peer runs on both sides of each variant, so that a change of the machine's speed falls on both.
            ratios[name].append(measured["speed"] / statistics.mean([before, after]))
            speeds[name].append(measured["speed"])
            waits.append(measured["data wait"])
            before = after
    title = f"0.8M parameters, step of 4 micro-batches of {label} tokens"
    print(f"\n{title}\n{'':22}{'tokens/s':>12}{f'of the {loop} loop':>20}{'least .. most':>16}")
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
    import foundray
    from foundray.cluster.connect import connected

    with tempfile.TemporaryDirectory() as folder:
        source = standard_library(Path(folder) / "source.txt")
        paths = {}
        for size in SIZES:
            (at := Path(folder) / str(size)).mkdir()
            paths[size] = write_spec(at, spec(source, at / "runs", size))
            foundray.prepare(paths[size])
        start = ours(paths[12], "cold", ALONE)["start-up"]
        print("start-up of a run, s: " + ", ".join(f"{part} {seconds:.1f}" for part, seconds in start.items()), flush=True)
        narrow = {"adamw8bit, exact": VARIANTS["adamw8bit, exact"]}
        with connected():
            table(paths[12], SIZES[12], VARIANTS, "plain", ALONE)
            table(paths[3], SIZES[3], {"adamw, exact": VARIANTS["adamw, exact"]}, "plain", ALONE)
            for size, label in SIZES.items():
                table(paths[size], label, narrow, "usual", {})


if __name__ == "__main__":
    main()
