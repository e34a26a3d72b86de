"""Benefit of a search for a run of laptop size: the standard library's source, 2,000 steps of 1,024 tokens.

`python -m tests.benchmarks.bench_tuning [--seeds 1337]`, about half an hour on two cores:
1. `foundray tune` with its default budget, then `foundray train` with what it found, beside the spec's own values;
2. `foundray tune` with a larger ladder, whose forecast is stated before the run, and the run.
Runs go to runs/; what already exists is not made again.
"""

from __future__ import annotations

import argparse
import sysconfig
from pathlib import Path
from typing import Any

from tests.command import foundray

SPEC = "examples/python-source/spec.yaml"
SOURCE = f"data.sources.0.path={sysconfig.get_paths()['stdlib']}/*.py"
LONGEST = 3600.0
"""Time limit of a command, in seconds."""


def output_of(verb: str, *arguments: object) -> tuple[str, dict[str, Any]]:
    done = foundray(verb, *arguments, "--json", timeout=LONGEST)
    return done.out, done.facts


def of_spec(name: str, *changes: str) -> list[str]:
    return [SPEC, *(part for change in (SOURCE, "train.steps=2000", f"name={name}", *changes) for part in ("--set", change))]


def trained(run: str, *arguments: object) -> dict[str, Any]:
    exists = Path("runs", run, "spec.yaml").exists()
    return output_of(*(("resume", f"runs/{run}") if exists else ("train", *arguments)))[1]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", nargs="+", type=int, default=[1337])
    for seed in parser.parse_args().seeds:
        print(f"seed {seed}", flush=True)
        plain = trained(f"plain-{seed}", *of_spec(f"plain-{seed}", f"seed={seed}"))
        text, found = output_of("tune", *of_spec(f"small-{seed}", f"seed={seed}"))
        print(text.rpartition("\n{")[0])
        tuned = trained(f"small-{seed}-tuned", found["spec"])
        print(f"the spec's own values: {plain['val_loss']:.4f} nats; tuned: {tuned['val_loss']:.4f}", flush=True)
        text, found = output_of("tune", *of_spec(f"ladder-{seed}", f"seed={seed}", "tune.budget=0.5", "tune.ladder=0.86"))
        print(text.rpartition("\n{")[0])
        came, stated = trained(f"ladder-{seed}-tuned", found["spec"])["val_loss"], found["forecast"]
        low, high = stated["interval"]["low"], stated["interval"]["high"]
        largest = max(point["parameters"] * point["tokens"] for point in stated["points"])
        times = stated["target"]["parameters"] * stated["target"]["tokens"] / largest
        print(
            f"forecast from {len(stated['points'])} runs, {times:.1f} times the largest of them: {stated['loss']:.4f} "
            f"({low:.4f} to {high:.4f}); {came:.4f} came: {'inside' if low <= came <= high else 'outside'}", flush=True
        )  # fmt: skip


if __name__ == "__main__":
    main()
