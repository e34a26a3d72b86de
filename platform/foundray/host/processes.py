"""Identify processes of this machine by more than their PID, independently of the machine's clock."""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

import psutil


def identity(process: psutil.Process) -> str:
    """A name unique over time: the machine's boot, the PID, and the start in seconds after the boot."""
    return f"{_boot()}/{process.pid}/{process.create_time() - psutil.boot_time():.2f}"


def home() -> str:
    """The scope in which this process sees others: the kernel's boot and the PID namespace. Empty if the system has neither.

    Containers and machines with the same host name differ in it.
    """
    with suppress(OSError):
        return f"{_boot()}/{Path('/proc/self/ns/pid').readlink()}" if _boot() else ""
    return ""


def lives_here(known: Mapping[str, Any]) -> bool | None:
    """Whether the process with this `pid`, `process` (its identity) and `home` is alive; None if it is not visible here."""
    if not home() or known.get("home") != home():
        return None
    with suppress(psutil.AccessDenied):
        if living(pid := known["pid"], known["process"]) is not None:
            return True
        if Path(f"/proc/{pid}").exists() or not _is_hidden(pid):
            return False
    return None


def living(pid: int, identified_as: str) -> psutil.Process | None:
    """The process with this PID, if it has this identity and has not ended."""
    with suppress(psutil.NoSuchProcess):
        process = psutil.Process(pid)
        if identity(process) == identified_as and process.status() != psutil.STATUS_ZOMBIE:
            return process
    return None


def _is_hidden(pid: int) -> bool:
    """Whether another user's process has this PID; /proc may not show it (hidepid)."""
    try:
        os.kill(pid, 0)
    except PermissionError:
        return True
    except OSError:
        pass
    return False


@cache
def _boot() -> str:
    with suppress(OSError):  # not Linux: PID and start time must do
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    return ""
