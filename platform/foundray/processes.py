"""Processes of this machine, told apart by more than their number, whatever happens to the machine's clock."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

import psutil


def identity(process: psutil.Process) -> str:
    """A name that no other process has or had: which boot of the machine, and how long after it the process began."""
    boot = ""
    with suppress(OSError):  # elsewhere than on Linux the number and the time have to do
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    return f"{boot}/{process.pid}/{process.create_time() - psutil.boot_time():.2f}"


def living(pid: int, known_as: str) -> psutil.Process | None:
    """The process of this number, where it is the one meant and has not ended."""
    with suppress(psutil.NoSuchProcess):
        process = psutil.Process(pid)
        if identity(process) == known_as and process.status() != psutil.STATUS_ZOMBIE:
            return process
    return None
