"""Checks of the machine: what it has, and what Ray needs."""

from __future__ import annotations

import os
import resource
import shutil
import sys
import time
from pathlib import Path

from foundray.doctor.finding import Finding, judged
from foundray.errors import InputError
from foundray.host import machine, writable

GB = 1e9
FULL = 0.95
"""Fraction of a full disk above which Ray stores no more objects there."""


def cores() -> Finding:
    return Finding("cores", "ok", f"{machine.cores()} of {os.cpu_count()} usable")


def memory() -> Finding:
    total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    usable = min(total, _memory_limit() or total)
    mend = "two gigabytes or more are needed: Ray, its actors and one worker take that much without a model"
    return judged("memory", f"{usable / GB:.1f} GB", usable < 1 * GB, usable < 2 * GB, mend)


def _memory_limit() -> int | None:
    """Memory limit of a container, in bytes."""
    for file in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        try:
            return int(Path(file).read_text())
        except (OSError, ValueError):  # not there; or `max`
            continue
    return None


def shared_memory() -> Finding:
    if not sys.platform.startswith("linux"):
        return Finding("shared memory", "ok", "in files")
    try:
        writable.check_shared_memory()
    except InputError as error:
        return Finding("shared memory", "wrong", str(error), f"mount a tmpfs at {writable.SHARED}")
    space = shutil.disk_usage(writable.SHARED)
    mend = "have a gigabyte of it free (docker run --shm-size=2g): Ray's objects go to disk if it is short"
    found = f"{space.free / GB:.1f} of {space.total / GB:.1f} GB free in /dev/shm"
    return judged("shared memory", found, False, space.free < writable.OBJECT_STORE, mend)


def open_files() -> Finding:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = sys.maxsize if hard == resource.RLIM_INFINITY else hard  # Ray raises the soft limit itself
    mend = "raise the limit: ulimit -Hn 65536, or nofile in /etc/security/limits.conf"
    return judged("open files", f"limit {soft:,}, may be raised to {most:,}", most < 1024, most < 8192, mend)


def disk(storage: str) -> Finding:
    """Check that the folder of runs can be written, and has space."""
    if "://" in storage:
        from foundray.doctor.probes import probed

        return probed("storage", storage)
    there = Path(storage).expanduser().absolute()
    while not os.access(there, os.F_OK):
        there = there.parent
    if not (there.is_dir() and os.access(there, os.W_OK | os.X_OK)):
        return Finding("storage", "wrong", f"{there} cannot be written", "name a folder of your own with --storage")
    free = shutil.disk_usage(there).free
    mend = f"free some of the disk that {there} is on, or keep runs elsewhere: checkpoints and prepared data go there"
    return judged("storage", f"{free / GB:,.1f} GB free for {storage}", free < 0.5 * GB, free < 5 * GB, mend)


def temporary_folder() -> Finding:
    """Check Ray's temporary folder, which holds its sockets."""
    try:
        writable.check_temporary_folder()
    except InputError as error:
        return Finding("temporary folder", "wrong", str(error), writable.REMEDY)
    folder = writable.temporary_folder()
    there = next(place for place in (folder, *folder.parents) if place.exists())  # Ray makes those that are missing
    space = shutil.disk_usage(there)
    share = 1 - space.free / space.total
    mend = f"free some of the disk that {folder} is on: Ray keeps no objects on one that is {FULL:.0%} full"
    return judged("temporary folder", f"{folder}, on a disk that is {share:.0%} full", share > FULL, False, mend)


def clock() -> Finding:
    now, installed = time.time(), Path(__file__).stat().st_mtime
    found = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(now))
    mend = "set the clock: it is earlier than the time at which Foundray was installed; object stores refuse requests then"
    return judged("clock", found, False, now < installed - 1, mend)
