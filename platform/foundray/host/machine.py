"""What this process may use of its machine: cores and memory, where a container or an affinity leaves it less; and how it
shares them with others."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

import psutil

CPU_FOLDERS = "/sys/devices/system/cpu"
GROUPS = "/sys/fs/cgroup"
PASSIVE = {"OMP_WAIT_POLICY": "PASSIVE"}
"""In the environment of what computes: OpenMP's threads sleep while they wait for each other. By default they spin, which takes
the core from those they wait for as soon as anybody else computes on the machine. It changes no bits."""


def cores() -> int:
    """Logical cores that this process may use: those of its affinity, at most as many as its control group may keep busy."""
    return max(1, min(len(_affinity()), int(_quota() or len(_affinity()))))


def physical_cores() -> int:
    """The same, where two threads of one core count once: a matrix product keeps all of a core busy with one of them."""
    siblings = set()
    for cpu in _affinity():
        try:
            siblings.add(Path(f"{CPU_FOLDERS}/cpu{cpu}/topology/thread_siblings_list").read_text())
        except OSError:  # not Linux
            return min(cores(), psutil.cpu_count(logical=False) or 1)
    return min(cores(), len(siblings))


def available_memory() -> int:
    """Bytes of main memory that are free, or are as soon as somebody needs them, and that a container leaves this process."""
    free = int(psutil.virtual_memory().available)
    for limit, used in (("memory.max", "memory.current"), ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes")):
        with suppress(OSError, ValueError):  # not there; or `max`
            free = min(free, int(Path(GROUPS, limit).read_text()) - int(Path(GROUPS, used).read_text()))
    return max(0, free)


def _affinity() -> set[int]:
    return os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else set(range(os.cpu_count() or 1))


def _quota() -> float | None:
    """Cores that the control group may keep busy; None without a limit."""
    with suppress(OSError, ValueError):  # ValueError: "max" is no number
        quota, period = Path(GROUPS, "cpu.max").read_text().split()
        return int(quota) / int(period)
    with suppress(OSError, ValueError):
        quota = Path(GROUPS, "cpu/cpu.cfs_quota_us").read_text()
        return int(quota) / int(Path(GROUPS, "cpu/cpu.cfs_period_us").read_text()) if int(quota) > 0 else None
    return None
