"""Cores and memory that this process may use, as a container or an affinity limits them; and how it shares them."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

import psutil

CPU_FOLDERS = "/sys/devices/system/cpu"
GROUPS = "/sys/fs/cgroup"
PASSIVE = {"OMP_WAIT_POLICY": "PASSIVE"}
"""Environment of computing processes: OpenMP's threads sleep while they wait for each other. By default they spin, which takes
the core from the threads they wait for as soon as another process computes on the machine. It changes no bits."""


def cores() -> int:
    """Number of logical cores that this process may use: those of its affinity, limited by the quota of its control group."""
    return max(1, min(len(_affinity()), int(_quota() or len(_affinity()))))


def physical_cores() -> int:
    """Number of physical cores that this process may use: one thread of a matrix product keeps a whole core busy."""
    siblings = set()
    for cpu in _affinity():
        try:
            siblings.add(Path(f"{CPU_FOLDERS}/cpu{cpu}/topology/thread_siblings_list").read_text())
        except OSError:  # not Linux
            return min(cores(), psutil.cpu_count(logical=False) or 1)
    return min(cores(), len(siblings))


def available_memory() -> int:
    """Bytes of main memory that are free or reclaimable, within the container's limit."""
    free = int(psutil.virtual_memory().available)
    for limit, used in (("memory.max", "memory.current"), ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes")):
        with suppress(OSError, ValueError):  # missing, or `max`
            free = min(free, int(Path(GROUPS, limit).read_text()) - int(Path(GROUPS, used).read_text()))
    return max(0, free)


def _affinity() -> set[int]:
    return os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else set(range(os.cpu_count() or 1))


def _quota() -> float | None:
    """Quota of the control group, in cores; None without a limit."""
    with suppress(OSError, ValueError):  # ValueError: "max" is no number
        quota, period = Path(GROUPS, "cpu.max").read_text().split()
        return int(quota) / int(period)
    with suppress(OSError, ValueError):
        quota = Path(GROUPS, "cpu/cpu.cfs_quota_us").read_text()
        return int(quota) / int(Path(GROUPS, "cpu/cpu.cfs_period_us").read_text()) if int(quota) > 0 else None
    return None
