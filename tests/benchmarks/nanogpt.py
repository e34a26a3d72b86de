"""Run a checkout of nanoGPT, named by the user, as its README does on a CPU."""

from __future__ import annotations

import re
import shutil
import stat
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from tests.benchmarks.small_runs import NEVER, Shape

RECIPE = "config/train_shakespeare_char.py"
DATA = "data/shakespeare_char"
ITERATION = re.compile(r"iter (\d+): loss [\d.]+, time ([\d.]+)ms")
EVALUATION = re.compile(r"step (\d+): train loss [\d.]+, val loss ([\d.]+)")
WARM_UP = 10
EVALUATION_BATCHES = 20
"""Per evaluation, for each of the two splits."""


@dataclass(frozen=True)
class Trained:
    seconds: float
    """Duration of the whole command, in seconds."""
    step_seconds: float
    """Median of the iterations that it prints, without the first ones and those with an evaluation."""
    val_loss: float
    evaluating: float
    """Extra seconds of the iterations with an evaluation."""
    iterations: int

    def parts(self) -> dict[str, float]:
        steps = self.iterations * self.step_seconds
        return {"steps": steps, "evaluating": self.evaluating, "start, end, rest": self.seconds - steps - self.evaluating}


def copied(checkout: Path, folder: Path, text: Path) -> Path:
    """A copy of the checkout with `text` as its data, prepared by its own prepare.py.

    Raises ValueError with one sentence if the folder is not one of nanoGPT's.
    """
    for name in ("train.py", "model.py", "configurator.py", RECIPE, f"{DATA}/prepare.py"):
        if not (checkout / name).is_file():
            raise ValueError(f"{checkout} is no checkout of nanoGPT: it has no {name}")
    copy = folder / "nanoGPT"
    shutil.copytree(checkout, copy, ignore=shutil.ignore_patterns(".git"), copy_function=shutil.copyfile)
    for place in (copy, *(path for path in copy.rglob("*") if path.is_dir())):
        place.chmod(place.stat().st_mode | stat.S_IWUSR)
    shutil.copyfile(text, copy / DATA / "input.txt")
    subprocess.run([sys.executable, "prepare.py"], cwd=copy / DATA, stdout=subprocess.DEVNULL, check=True)
    return copy


def train(copy: Path, shape: Shape, iterations: int, evaluate_every: int | None) -> Trained:
    """Run its CPU recipe at another shape; without `evaluate_every`, the only evaluation is before the first iteration."""
    changes = {
        "device": "cpu", "compile": False, "dropout": 0.0,
        "eval_iters": EVALUATION_BATCHES if evaluate_every else 1, "eval_interval": evaluate_every or NEVER,
        "log_interval": 10 if evaluate_every else 1,
        "block_size": shape.context, "batch_size": shape.batch,
        "n_layer": shape.depth, "n_head": shape.heads, "n_embd": shape.width,
        "max_iters": iterations, "lr_decay_iters": iterations,
    }  # fmt: skip
    command = [sys.executable, "train.py", RECIPE, *(f"--{name}={value}" for name, value in changes.items())]
    began = time.perf_counter()
    done = subprocess.run(command, cwd=copy, capture_output=True, text=True)
    seconds = time.perf_counter() - began
    if done.returncode:
        raise RuntimeError(f"nanoGPT's train.py ended with status {done.returncode}: {done.stderr.strip()[-2000:]}")
    took = {int(number): float(ms) / 1e3 for number, ms in ITERATION.findall(done.stdout)}
    losses = {int(number): float(loss) for number, loss in EVALUATION.findall(done.stdout)}
    steady = median(s for number, s in took.items() if number >= WARM_UP and number not in losses)
    evaluating = sum(took[number] - steady for number in losses if number in took)
    return Trained(seconds, steady, losses[max(losses)], evaluating, iterations)
