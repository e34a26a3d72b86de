"""Small character models trained by whole commands, as a user starts them, and where their time went by their records."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
import sysconfig
import time
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import yaml

from foundray.runs.goodput import account

FOUNDRAY = str(Path(sys.executable).with_name("foundray"))
SETTLED_SECONDS, WINDOW = 15.0, 10
"""Seconds left out after the first step, while Ray Train and Ray Data start on the same processors; and steps whose mean is one
measurement, so that things that happen every few steps count."""
NEVER = 10**6


@dataclass(frozen=True)
class Shape:
    name: str
    batch: int
    """Samples per step."""
    context: int
    width: int
    depth: int
    heads: int
    millions: float
    """Parameters."""

    def __str__(self) -> str:
        return f"{self.batch} x {self.context} characters per step, {self.millions} M parameters"


SMALL = Shape("small", batch=12, context=64, width=128, depth=4, heads=4, millions=0.8)
MEDIUM = Shape("medium", batch=16, context=128, width=128, depth=4, heads=4, millions=0.8)
LARGE = Shape("large", batch=8, context=256, width=384, depth=6, heads=6, millions=10.7)


def spec_of(
    shape: Shape, text: Path, storage: Path, steps: int, micro_batches: int = 2, evaluate_every: int = NEVER,
    scale: dict[str, Any] | None = None,
) -> dict[str, Any]:  # fmt: skip
    """Without `scale`, the run gets the default workers and threads."""
    spec: dict[str, Any] = {
        "name": "bench",
        "data": {"sources": [{"path": str(text), "format": "text"}], "holdout": 0.1, "tokenizer": {"kind": "char"}},
        "objective": {"kind": "next_token"},
        "model": {"width": shape.width, "depth": shape.depth, "heads": shape.heads, "context": shape.context},
        "optimizer": {"kind": "adamw8bit", "lr": 4e-3, "betas": [0.9, 0.99], "weight_decay": 0.1, "clip": 1.0},
        "schedule": {"kind": "wsd", "warmup": 0.05, "decay": 0.4},
        "train": {
            "steps": steps, "micro_batches": micro_batches, "micro_batch_size": shape.batch // micro_batches,
            "evaluate_every": evaluate_every,
        },
        "storage": str(storage),
    }  # fmt: skip
    return spec | ({"scale": scale} if scale else {})


def standard_library(path: Path, size: int = 1_500_000) -> Path:
    """Write real text that every Python has: the first ASCII characters of its standard library's source."""
    files = sorted(Path(sysconfig.get_paths()["stdlib"]).glob("*.py"))
    text = "".join(file.read_text(encoding="utf-8", errors="ignore") for file in files)
    path.write_text("".join(c for c in text if c.isascii())[:size])
    return path


def steps_of(run: Path) -> list[dict[str, Any]]:
    """The records of a run's steps."""
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def prepare(spec: Path) -> None:
    subprocess.run([FOUNDRAY, "prepare", spec], stdout=subprocess.DEVNULL, check=True)


@dataclass(frozen=True)
class Train:
    """A running `foundray train`."""

    process: subprocess.Popen[bytes]
    began: float
    """Seconds since the epoch."""
    run: Path

    @classmethod
    def start(cls, spec: Path, name: str) -> Train:
        storage = Path(yaml.safe_load(spec.read_text())["storage"])
        command = [FOUNDRAY, "train", str(spec), "--set", f"name={name}", "--json"]
        began = time.time()
        return cls(subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL), began, storage / name)

    def wait(self) -> Record:
        status = self.process.wait()
        ended = time.time()
        if status:
            raise RuntimeError(f"`foundray train` of {self.run} ended with status {status}")
        return Record.read(self.run, self.began, ended)

    def steps(self) -> int:
        """Steps done so far."""
        path = self.run / "metrics.jsonl"
        return path.read_bytes().count(b"\n") if path.exists() else 0


@dataclass(frozen=True)
class Record:
    """A run's records, and when its command began and ended."""

    events: list[dict[str, Any]]
    metrics: list[dict[str, Any]]
    began: float
    ended: float

    @classmethod
    def read(cls, run: Path, began: float, ended: float) -> Record:
        events, metrics = (
            [json.loads(line) for line in (run / name).read_text().splitlines()] for name in ("events.jsonl", "metrics.jsonl")
        )
        return cls(events, metrics, began, ended)

    @property
    def seconds(self) -> float:
        return self.ended - self.began

    @property
    def val_loss(self) -> float:
        return float([event for event in self.events if event["event"] == "evaluated"][-1]["val_loss"])

    @property
    def workers(self) -> str:
        threads = {event["threads"] for event in self.events if event["event"] == "member_ready"}
        return f"{self.metrics[-1]['workers']} workers of {' or '.join(sorted(threads))} threads"

    def step_seconds(self, since: float = 0.0, until: float = float("inf")) -> float:
        """Median over all windows of `WINDOW` steps in the steady state, from the end of a step to the end of a later one.

        Windows with an evaluation are left out, and those outside `since` and `until` (seconds since the epoch).
        """
        breaks = [event["time"] for event in self.events if event["event"] == "evaluated"]
        settled = self.metrics[0]["time"] + SETTLED_SECONDS
        ends = [record["time"] for record in self.metrics if record["time"] >= settled]
        windows = [
            (last - first) / WINDOW
            for first, last in zip(ends, ends[WINDOW:], strict=False)
            if since <= first and last <= until and not any(first < at - 0.001 and at < last + 0.001 for at in breaks)
        ]
        if not windows:
            raise RuntimeError(f"there are no {WINDOW} steps in a row to measure among {len(self.metrics)}: it takes more")
        return median(windows)

    def parts(self) -> dict[str, float]:
        """Seconds of the whole command by part; they sum to its duration."""
        command = next(event["time"] for event in self.events if event["event"] == "command")
        finished = next(event["time"] for event in self.events if event["event"] == "finished")
        parts = {"Ray and driver": command - self.began, **account(self.events, self.metrics), "ending": self.ended - finished}
        return {part: seconds for part, seconds in parts.items() if abs(seconds) >= 0.05}


def listed(parts: dict[str, float], unit: str = "s") -> str:
    return ", ".join(f"{part.replace('_', ' ')} {value:.1f} {unit}" for part, value in parts.items())


def machine() -> str:
    """The processor, its cores, and the versions of what computes on it."""
    import torch

    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    kind = f"{names[0] if names else platform.processor() or platform.machine()}, {torch.backends.cpu.get_cpu_capability()}"
    return f"{kind}, {os.cpu_count()} cores; Python {platform.python_version()}, torch {torch.__version__}"
