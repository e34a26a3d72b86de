"""Processes of this machine, told apart by more than their number, whatever happens to the machine's clock."""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

import psutil


def identity(process: psutil.Process) -> str:
    """A name that no other process has or had: which boot of the machine, and how long after it the process began."""
    return f"{_boot()}/{process.pid}/{process.create_time() - psutil.boot_time():.2f}"


def home() -> str:
    """Where this process can look for others: the kernel's boot and the PID namespace. Empty where the system has neither.

    Containers and machines of one host name differ in it.
    """
    with suppress(OSError):
        return f"{_boot()}/{Path('/proc/self/ns/pid').readlink()}" if _boot() else ""
    return ""


def lives_here(known: Mapping[str, Any]) -> bool | None:
    """Whether the process of this `pid`, `process` (its identity) and `home` lives; None if it cannot be seen from here."""
    if not home() or known.get("home") != home():
        return None
    with suppress(psutil.AccessDenied):
        if living(pid := known["pid"], known["process"]) is not None:
            return True
        if Path(f"/proc/{pid}").exists() or not _is_hidden(pid):
            return False
    return None


def living(pid: int, known_as: str) -> psutil.Process | None:
    """The process of this number, where it is the one meant and has not ended."""
    with suppress(psutil.NoSuchProcess):
        process = psutil.Process(pid)
        if identity(process) == known_as and process.status() != psutil.STATUS_ZOMBIE:
            return process
    return None


def _is_hidden(pid: int) -> bool:
    """Whether there is a process of this number that is another user's, whom /proc may not show (hidepid)."""
    try:
        os.kill(pid, 0)
    except PermissionError:
        return True
    except OSError:
        pass
    return False


@cache
def _boot() -> str:
    with suppress(OSError):  # elsewhere than on Linux the number and the time have to do
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    return ""
