"""A run on a Ray of its own starts no process that nobody there needs, and its slots are held by Ray Train all the same."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
from tests.conftest import small_spec, write_spec

SECONDS = 120
NEEDED = {
    "Worker": "computes", "_Feeder": "reads", "_Board": "collects", "_Keeper": "is Ray Train",
    "RayTrainWorker": "holds a slot", "SynchronizationActor": "is started by Ray Train with every group of its workers",
}  # fmt: skip
"""Actors, and what each does."""
OTHERS = ("IDLE", "Map(", "Read", "DashboardAgent", "RuntimeEnvAgent")
"""How the names of processes begin that are no actors': those that wait for work, Ray Data's tasks, and Ray's daemons."""

LEFT_OUT = ("log_monitor.py", "monitor.py", "dashboard.py")
"""Of Ray's daemons: logs are not forwarded here, one machine has nothing to scale, and nobody looks at a dashboard."""


def test_a_run_on_one_machine_starts_what_it_needs(prose: Path, tmp_path: Path) -> None:
    changes = {"train__steps": 100_000, "train__checkpoint_every": 100_000, "scale": {"workers": 1}}
    spec = write_spec(tmp_path, small_spec(prose, tmp_path / "runs", **changes))
    command = [Path(sys.executable).with_name("foundray"), "train", str(spec)]
    run = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    try:
        seen, until = set[str](), time.monotonic() + SECONDS
        while "RayTrainWorker" not in seen and time.monotonic() < until and run.poll() is None:
            seen |= actors(run.pid)
            time.sleep(0.1)
        assert seen == NEEDED.keys() - ({"SynchronizationActor"} - seen)
        daemons = " ".join(part for process in psutil.Process(run.pid).children(True) for part in process.cmdline())
        assert "gcs_server" in daemons and not any(name in daemons for name in LEFT_OUT)
    finally:
        run.send_signal(signal.SIGTERM)
        said = run.communicate(timeout=SECONDS)[0]
    assert run.returncode == 128 + signal.SIGTERM, said
    steps = (tmp_path / "runs" / "small" / "metrics.jsonl").read_text().splitlines()
    assert steps, "the first steps are done before Ray Train holds the slot"


def actors(pid: int) -> set[str]:
    """The kinds of actors among the processes that a command has started: Ray names a process by what it runs."""
    found = set()
    for process in psutil.Process(pid).children(recursive=True):
        try:
            name = process.cmdline()[0]
        except (psutil.Error, IndexError):
            continue
        kind = name.removeprefix("ray::").partition(".")[0]
        if name.startswith("ray::") and not kind.startswith(OTHERS):
            found.add(kind)
    return found
