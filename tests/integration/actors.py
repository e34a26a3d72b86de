"""The processes that a run on its own Ray starts, by their purpose."""

from __future__ import annotations

import psutil

from foundray.testing.waiting import Process, wait_until

SECONDS = 120
NEEDED = {
    "Worker": "computes", "_Feeder": "reads", "_Board": "collects", "_Keeper": "is Ray Train",
    "RayTrainWorker": "holds a slot",
}  # fmt: skip
"""Actors, and the purpose of each."""
OTHERS = ("IDLE", "Map(", "Read", "RuntimeEnvAgent")
"""Prefixes of the names of processes other than actors: those that wait for work, Ray Data's tasks, and Ray's daemons."""

LEFT_OUT = ("log_monitor.py", "monitor.py", "dashboard.py")
"""Daemons of Ray that must be absent: logs are not forwarded here, one machine does not scale, and there is no dashboard."""


def check_only_what_is_needed(pid: int, command: Process) -> None:
    """Wait until Ray Train holds the command's slot: no unneeded process was started."""
    seen = set[str]()
    wait_until(lambda: seen.update(actors(pid)) or "RayTrainWorker" in seen, SECONDS, "Ray Train's worker", command, 0.1)
    assert seen == NEEDED.keys()
    daemons = " ".join(part for process in psutil.Process(pid).children(True) for part in process.cmdline())
    assert "gcs_server" in daemons and not any(name in daemons for name in LEFT_OUT)


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
