"""What a roll-back undoes stays undone, whatever happens between its record and the deletion of the states that it undoes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from tests import hooked
from tests.command import foundray_in_turn
from tests.repository import REPOSITORY

from foundray.runs.checkpoints import completed_steps
from foundray.runs.lineage import recorded
from foundray.runs.run import Run
from foundray.testing.specs import small_spec, write_spec

STEPS = 32
PACE = 0.03
"""Seconds per micro-batch: checkpoints are complete a step or two later then."""
KILLED = """
import os, signal, sys
from foundray.cli import main
from foundray.training.elastic.committer import Committer

Committer.follow = lambda self, lineage: os.kill(os.getpid(), signal.SIGKILL)
sys.exit(main(sys.argv[1:]))
"""
"""The command is killed once the cut is stored, before anything is deleted."""
REFUSED = """
import sys
from foundray.cli import main
from foundray.errors import InputError
from foundray.storage import Store

deleted = Store.delete_folder

def refused(self):
    if "/checkpoints/" in self.path:
        raise InputError(f"{self} cannot be written: AccessDenied")
    deleted(self)

Store.delete_folder = refused
sys.exit(main(sys.argv[1:]))
"""
"""Storage refuses to delete checkpoints."""


@pytest.fixture
def spec(prose: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    site = str(hooked.install(tmp_path / "hooked"))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([site, str(REPOSITORY)]))
    monkeypatch.syspath_prepend(site)
    for name, value in hooked.Pace(tmp_path / "pace", PACE).environment.items():
        monkeypatch.setenv(name, value)
    train = {"steps": STEPS, "micro_batches": 12, "micro_batch_size": 4, "evaluate_every": 1000, "checkpoint_every": 2}
    plain = small_spec(prose, tmp_path / "plain", train=train)
    token = hooked.rare_openers(write_spec(tmp_path, plain), STEPS)[0]
    guard, objective = {"spike": 12.0, "roll_back": 16}, {"kind": "hooked", "spike_token": token}
    return write_spec(tmp_path, small_spec(prose, tmp_path / "runs", train=train, objective=objective, guard=guard))


def planted(program: str, spec: Path, name: str) -> int:
    """Exit status of a training command with a fault."""
    command = [sys.executable, "-c", program, "train", str(spec), "--set", f"name={name}"]
    return subprocess.run(command, capture_output=True).returncode


@pytest.mark.thorough
def test_a_killed_command_and_refused_deletes_bring_no_undone_state_back(spec: Path, tmp_path: Path) -> None:
    assert planted(KILLED, spec, "killed") == -signal.SIGKILL
    run = Run.open(str(tmp_path / "runs" / "killed"))
    [cut] = recorded(run.records("events.jsonl"))
    assert max(completed_steps(run.checkpoints)) > cut.to, "an undone state is stored"
    assert planted(REFUSED, spec, "refused") == 0

    commands = (("resume", run.folder), ("status", tmp_path / "runs" / "refused"), ("train", spec))
    resumed, refused, undisturbed = foundray_in_turn(*((*command, "--json") for command in commands), on_one_ray=True)
    assert resumed.facts["weights_sha256"] == undisturbed.facts["weights_sha256"]
    assert refused.facts["weights_sha256"] == undisturbed.facts["weights_sha256"]
