"""A run on its own Ray starts no unneeded process, and Ray Train still holds its slots."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import psutil

from foundray.testing.specs import small_spec, write_spec
from foundray.testing.waiting import wait_until

SECONDS = 120
NEEDED = {
    "Worker": "computes", "_Feeder": "reads", "_Board": "collects", "_Keeper": "is Ray Train",
    "RayTrainWorker": "holds a slot", "SynchronizationActor": "is started by Ray Train with every group of its workers",
}  # fmt: skip
"""Actors, and the purpose of each."""
OTHERS = ("IDLE", "Map(", "Read", "DashboardAgent", "RuntimeEnvAgent")
"""Prefixes of the names of processes other than actors: those that wait for work, Ray Data's tasks, and Ray's daemons."""

LEFT_OUT = ("log_monitor.py", "monitor.py", "dashboard.py")
"""Daemons of Ray that must be absent: logs are not forwarded here, one machine does not scale, and there is no dashboard."""


def test_a_run_on_one_machine_starts_what_it_needs(prose: Path, tmp_path: Path) -> None:
    changes = {"train__steps": 100_000, "train__checkpoint_every": 100_000, "scale": {"workers": 1}}
    spec = write_spec(tmp_path, small_spec(prose, tmp_path / "runs", **changes))
    command = [Path(sys.executable).with_name("foundray"), "train", str(spec)]
    run = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    try:
        seen = set[str]()
        wait_until(lambda: seen.update(actors(run.pid)) or "RayTrainWorker" in seen, SECONDS, "Ray Train's worker", run, 0.1)
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
    """Kinds of actors among the processes of a command: Ray names a process after what it runs."""
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
