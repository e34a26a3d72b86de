"""The driver really dies; the result is that of an undisturbed run."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
from pathlib import Path

import pytest
from tests.command import FOUNDRAY, foundray
from tests.processes import alive, descendants, title

from foundray.testing.specs import small_spec, write_spec
from foundray.testing.waiting import wait_until

STEPS = 80


@pytest.fixture
def spec(prose: Path, tmp_path: Path) -> Path:
    train = {"steps": STEPS, "micro_batches": 12, "micro_batch_size": 4, "evaluate_every": 1000, "checkpoint_every": 20}
    return write_spec(tmp_path, small_spec(prose, tmp_path / "runs", model__width=64, train=train))


class Running:
    """A running training command."""

    def __init__(self, spec: Path, name: str, workers: int):
        self.run = spec.parent / "runs" / name
        changes = [f"name={name}", f"scale.workers={workers}", "scale.resources.CPU=0.5"]
        command = [FOUNDRAY, "train", str(spec), "--json", *(part for change in changes for part in ("--set", change))]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    def wait_for_step(self, step: int) -> None:
        def reached() -> bool:
            with contextlib.suppress(FileNotFoundError, IndexError, json.JSONDecodeError):
                last = (self.run / "metrics.jsonl").read_text().splitlines()[-1]
                return bool(json.loads(last)["step"] >= step)
            return False

        wait_until(reached, 400, f"step {step}", self.process)


def test_a_killed_driver_is_resumed_on_another_number_of_workers(spec: Path) -> None:
    running = Running(spec, "driver", workers=2)
    running.wait_for_step(25)
    family = descendants(running.process.pid)
    running.process.kill()
    running.process.communicate()
    # Ray's two per-node agents outlive a raylet that was killed with its driver; nothing that holds resources does.
    holding = [pid for pid in family if "Agent" not in title(pid)]
    names = {pid: title(pid) for pid in holding}
    wait_until(
        lambda: not any(map(alive, holding)),
        90,
        lambda: f"the end of Ray's processes: {[name for pid, name in names.items() if alive(pid)]}",
    )
    for pid in filter(alive, family):
        os.kill(pid, signal.SIGKILL)
    interrupted = foundray("status", running.run, "--json").facts
    assert interrupted["state"] == "interrupted"
    assert 25 <= interrupted["step"] < STEPS
    assert interrupted["weights_sha256"] is None
    facts = foundray("resume", running.run, "--set", "scale.workers=3", "--json").facts
    undisturbed = foundray("train", spec, "--set", "name=undisturbed", "--json").facts
    assert facts["weights_sha256"] == undisturbed["weights_sha256"]
    assert (facts["workers"], facts["restarts"], facts["state"]) == (3, 1, "finished")
