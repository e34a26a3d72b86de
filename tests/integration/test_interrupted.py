"""A run that is stopped twice and killed, each time continued on other workers, ends as one that nothing disturbs."""

from __future__ import annotations

import os
import signal
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from tests.command import FOUNDRAY
from tests.hooked import Pace
from tests.processes import alive, descendants, title

import foundray as api
from foundray.runs import lock
from foundray.testing.waiting import wait_until

pytestmark = pytest.mark.usefixtures("own_ray")

STEPS = 60
PACE = 0.04
"""Seconds per micro-batch, five per step, that keep a run from ending before it is stopped."""
LONG = {
    "train.steps": STEPS, "train.checkpoint_every": 1000, "train.evaluate_every": 1000, "data.holdout": 0.005,
    "scale.resources.CPU": 0.5, "objective.kind": "hooked",
}  # fmt: skip


@pytest.mark.thorough
def test_a_run_that_was_stopped_twice_and_killed_ends_with_the_same_weights(
    pace: Pace, shared_spec: Path, storage: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stopped by SIGTERM and by `foundray stop`, it ends after a step, with its checkpoint, and no step is repeated.

    At last its newest checkpoint is damaged, and it falls back to the one before.
    """
    calm = api.train(shared_spec, {"name": "calm", **LONG})
    pace.set(PACE)
    run = storage / "runs" / "disturbed"
    sets = [f"{name}={value}" for name, value in {"name": "disturbed", **LONG}.items()]
    with subprocess.Popen([FOUNDRAY, "train", shared_spec, *flags(sets)], stdout=subprocess.PIPE, text=True) as process:
        wait_for_step(run, 3)
        process.terminate()
        said, _ = process.communicate(timeout=300)
    assert process.returncode == 143, said
    first = api.status(run)
    assert (first.state, first.stopped_by, first.checkpoint) == ("stopped", "SIGTERM", first.step)
    assert f"next: foundray resume {run}" in said

    monkeypatch.setattr(lock, "BEAT_SECONDS", 0.05)
    with ThreadPoolExecutor(1) as pool:
        resumed = pool.submit(api.resume, run)
        wait_for_step(run, first.step + 3)
        second = api.stop(run)
        assert resumed.result(60) == second
    assert (second.state, second.checkpoint) == ("stopped", second.step)
    assert first.step < second.step < STEPS
    assert api.stop(run) == second, "where nobody runs it, there is nothing to stop"

    kill_when_it_is_resumed(run, second.step + 3)
    interrupted = api.status(run)
    assert (interrupted.state, interrupted.weights_sha256, interrupted.steps_repeated) == ("interrupted", None, 0)
    assert second.step < interrupted.step < STEPS

    damage(run, second.step)
    pace.set(0)
    heard: list[str] = []
    finished = api.resume(run, {"scale.workers": 1}, report=heard.append)
    damaged, back = f"step-{second.step:08d} is damaged (the SHA-256", f"falling back to step {first.step}"
    assert any(damaged in line and back in line for line in heard), heard
    assert finished.weights_sha256 == calm.weights_sha256
    assert (finished.workers, finished.restarts, finished.state) == (1, 1, "finished")
    assert finished.steps_repeated == interrupted.step - first.step
    assert api.audit(run).problems == []


def damage(run: Path, step: int) -> None:
    """Change a byte of the step's checkpoint."""
    shard = next((run / "checkpoints" / f"step-{step:08d}").glob("*.safetensors"))
    content = bytearray(shard.read_bytes())
    content[-1] ^= 1
    shard.write_bytes(content)


def kill_when_it_is_resumed(run: Path, step: int) -> None:
    """Resume the run as a command on two workers and kill its driver at the step: everything that it started ends."""
    command = [FOUNDRAY, "resume", run, *flags(["scale.workers=2"])]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        wait_for_step(run, step)
        family = descendants(process.pid)
        process.kill()
        process.communicate()
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


def flags(changes: list[str]) -> list[str]:
    return [part for change in changes for part in ("--set", change)]


def wait_for_step(run: Path, step: int) -> None:
    log = run / "metrics.jsonl"
    wait_until(lambda: log.exists() and log.read_text().count("\n") >= step, 300, f"step {step} of {run}")
