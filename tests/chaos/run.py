"""A training command that runs on a local cluster."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.command import FOUNDRAY, Done
from tests.hooked import Pace

from foundray.cluster.local.cluster import LocalCluster
from foundray.testing.waiting import wait_until

STEPS = 240
EVALUATE_EVERY, CHECKPOINT_EVERY, KEEP_EVERY = 20, 5, 10
"""Steps of the schedules' runs between evaluations, between checkpoints, and between those that are kept."""
TEAM = os.environ.get("CHAOS_TEAM", "1")
"""Workers of a team in the schedules' runs; the run without faults has none."""
SLOW = 0.3
"""Seconds per micro-batch of a run that is held back."""


class Run:
    """A running training command on the cluster."""

    def __init__(self, cluster: LocalCluster, spec: Path, name: str, *arguments: str):
        self.cluster, self.spec, self.name = cluster, spec, name
        self.folder = spec.parent / "runs" / name
        self.damaged = set[Path]()
        """Manifests of checkpoints that a fault has damaged."""
        self.start("train", spec, "--set", f"name={name}", *arguments)

    def start(self, *arguments: object) -> None:
        environment = {**os.environ, "RAY_ADDRESS": self.cluster.address, "FOUNDRAY_LOCAL_CLUSTER": str(self.cluster.folder)}
        command = [FOUNDRAY, *map(str, arguments), "--json"]
        self.process = subprocess.Popen(
            command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
        )

    def step(self) -> int:
        """The last step recorded."""
        with contextlib.suppress(FileNotFoundError, IndexError):
            return int(json.loads((self.folder / "metrics.jsonl").read_text().split("\n")[-2])["step"])
        return 0

    def wait_for_step(self, step: int, seconds: float = 600) -> None:
        """Wait until the step is recorded or the command has ended."""
        self.wait_for(lambda: self.step() >= step, f"step {step}", seconds)

    def wait_for_event(self, kind: str, seconds: float = 600) -> None:
        """Wait until an event of the kind is recorded or the command has ended."""
        self.wait_for(lambda: any(event["event"] == kind for event in self.events()), kind, seconds)

    def wait_for_file(self, path: Path, seconds: float = 300) -> None:
        self.wait_for(path.exists, path.name, seconds)

    def wait_for(self, reached: Callable[[], bool], what: str, seconds: float = 300) -> None:
        """Wait until it is reached, or the run ends."""
        wait_until(
            lambda: self.process.poll() is not None or reached(),
            seconds,
            lambda: f"{what}, after step {self.step()}: {self.events()[-5:]}",
        )

    def wait(self, seconds: float = 900) -> Done:
        try:
            out, err = self.process.communicate(timeout=seconds)
        except subprocess.TimeoutExpired:
            self.kill()
            raise AssertionError(f"{self.name} did not end; step {self.step()}: {self.events()[-8:]}") from None
        return Done(self.process.returncode, out, err)

    def end(self) -> None:
        """Kill the driver if it still runs."""
        if self.process.poll() is None:
            self.kill()

    def kill(self) -> None:
        """Send SIGKILL to the driver."""
        self.process.kill()
        self.process.communicate()

    def events(self) -> list[dict[str, Any]]:
        return self._read("events.jsonl")

    def steps(self) -> list[dict[str, Any]]:
        """Records of the steps."""
        return self._read("metrics.jsonl")

    def _read(self, file: str) -> list[dict[str, Any]]:
        with contextlib.suppress(FileNotFoundError):
            lines = (self.folder / file).read_text().split("\n")[:-1]  # the last one may be under way
            return [json.loads(line) for line in lines]
        return []


class PacedRun(Run):
    """A run that hardly advances unless a step or an event is waited for, so that what takes a test long is a few steps."""

    def __init__(self, cluster: LocalCluster, spec: Path, name: str, pace: Pace):
        self.pace = pace
        super().__init__(cluster, spec, name, "--set", f"scale.team={TEAM}")

    def wait_for(self, reached: Callable[[], bool], what: str, seconds: float = 300) -> None:
        self.pace.set(0)
        try:
            super().wait_for(reached, what, seconds)
        finally:
            self.pace.set(SLOW)
