"""Results of the examples with their committed specs: each is trained once per seed, and evaluated.

`python -m tests.benchmarks.bench_examples [NAME ...] [--seeds 1337 1 2] [--mirror FOLDER]`; about ten minutes per example and
seed on two cores. Data goes to data/ and runs to runs/; what already exists is not made again.
"""

from __future__ import annotations

import argparse
import math
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from statistics import mean
from typing import Any

from tests.command import FOUNDRAY, foundray

from foundray.evaluation.probes.task import mean_and_deviation

NATS = "nats a character"
LONGEST = 3600.0
"""Time limit of a command, in seconds."""


@dataclass(frozen=True)
class Example:
    spec: str
    bar: str
    """The result that it should reach."""
    measure: str
    task: str | None = None
    """The measure that judges it; the loss over the validation split if there is none."""

    @property
    def folder(self) -> str:
        return self.spec.split("/")[0]


EXAMPLES = {
    "shakespeare": Example("shakespeare/spec.yaml", "< 1.669, then 1.60", NATS),
    "wolof": Example("wolof/spec.yaml", "< 1.99", NATS),
    "genome": Example("genome/spec.yaml", "<= 1.930", "bits a base"),
    "electricity-transformer": Example("electricity-transformer/spec.yaml", "<= 0.375", "mse", "task.yaml"),
    "spoken-digits": Example("spoken-digits/spec.yaml", "> 0.70", "accuracy", "task.yaml"),
    "handwritten-digits": Example("handwritten-digits/spec.yaml", "> 0.75", "accuracy", "task.yaml"),
    "vit-mae": Example("handwritten-digits/vit-mae.yaml", "> 0.75", "accuracy", "task.yaml"),
    "cart-pole": Example("control/cart-pole.yaml", "> 450", "return", "cart-pole-task.yaml"),
    "decision-transformer": Example("control/decision-transformer.yaml", "> 350", "return", "cart-pole-task.yaml"),
    "pendulum": Example("control/pendulum.yaml", "> -250", "return", "pendulum-task.yaml"),
}


def facts_of(*arguments: object) -> dict[str, Any]:
    """Run a command, and return the facts that it prints."""
    return foundray(*arguments, "--json", timeout=LONGEST).facts


def get_data(example: Example, mirror: str | None) -> None:
    generator = Path("examples", example.folder, "generate.py")
    if not generator.exists():
        where = ["--mirror", mirror] if mirror else []
        subprocess.run([FOUNDRAY, "fetch", example.folder, *where], check=True)
    elif not (data := Path("data", example.folder, "trajectories.npz")).exists():
        subprocess.run([sys.executable, generator, data], check=True)


def trained(name: str, example: Example, seed: int) -> dict[str, Any]:
    run = Path("runs", f"{name}-{seed}")
    if (run / "spec.yaml").exists():
        return facts_of("resume", run)
    return facts_of("train", Path("examples", example.spec), "--set", f"name={run.name}", "--set", f"seed={seed}")


def reach(name: str, example: Example, seeds: list[int]) -> None:
    """Train and evaluate an example, and print a row: mean and deviation over seeds, beside a simple baseline."""
    results, minutes, beside = [], [], ("", "")
    for seed in seeds:
        facts = trained(name, example, seed)
        minutes.append(facts["seconds"] / 60)
        if example.task:
            judged = facts_of("probe", facts["run"], "--task", Path("examples", example.folder, example.task))
            beside = mean_and_deviation(judged["floor"]), mean_and_deviation(judged["random"])
            results.append(mean(judged["ours"]))
        else:
            results.append(facts["val_loss"] / (1.0 if example.measure == NATS else math.log(2)))
    each = ", ".join(f"{result:.4g}" for result in results)
    title = f"{name}, {example.measure}, {example.bar}"
    print(
        f"{title:48}{mean_and_deviation(results):>18}{beside[0]:>18}{beside[1]:>18}   {each}; {max(minutes):.1f} min",
        flush=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", choices=[*EXAMPLES, []], metavar="NAME")  # no name at all is looked up, too
    parser.add_argument("--seeds", nargs="+", type=int, default=[1337, 1, 2])
    parser.add_argument("--mirror")
    options = parser.parse_args()
    print(f"{'':48}{'reached':>18}{'floor':>18}{'untrained':>18}   each seed; longest training", flush=True)
    for name in options.names or EXAMPLES:
        get_data(EXAMPLES[name], options.mirror)
        reach(name, EXAMPLES[name], options.seeds)


if __name__ == "__main__":
    main()
