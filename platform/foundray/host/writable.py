"""Check, before a local Ray starts, what it writes to: its session's folder, and shared memory.

Ray itself reports a failure to write only after a long timeout, or with a traceback.
"""

from __future__ import annotations

import os
import socket
import sys
import tempfile
from contextlib import suppress
from pathlib import Path

from foundray.errors import InputError

OBJECT_STORE = 2**30
"""Bytes of shared memory for the objects of a Ray that we start."""
SHARED = Path("/dev/shm")
SOCKET_BYTES = 107
"""Longest path of a Unix socket."""
SESSION = "ray/session_2026-01-01_00-00-00_000000_1000000/sockets/plasma_store.1"
"""The longest path that Ray appends to the temporary folder."""
REMEDY = "set RAY_TMPDIR to a folder of yours with a short path, such as /tmp"


def temporary_folder() -> Path:
    """The folder in which Ray keeps its sockets and logs, by Ray's own rules."""
    return Path(os.environ.get("RAY_TMPDIR") or os.environ.get("TMPDIR") or "/tmp").absolute()


def check_temporary_folder(folder: Path | None = None, remedy: str = REMEDY) -> None:
    """Raise InputError if Ray cannot create its sockets and files in `folder` (default: Ray's); `remedy` ends the message."""
    folder = folder or temporary_folder()
    if not str(folder).isascii():
        raise InputError(f"Ray's folder for sockets and logs must have an ASCII path, and {folder} does not: {remedy}")
    length = len(os.fsencode(folder / SESSION))
    if length > SOCKET_BYTES:
        raise InputError(
            f"the path of {folder} is too long: Ray's sockets in it would have paths of {length} bytes, of "
            f"at most {SOCKET_BYTES}: {remedy}"
        )
    existing = folder / "ray"
    with suppress(PermissionError):  # a folder that cannot be listed cannot be written either
        while not existing.exists():  # Ray creates missing folders
            existing = existing.parent
    try:
        with tempfile.TemporaryDirectory(prefix="t", dir=existing) as made, socket.socket(socket.AF_UNIX) as tried:
            tried.bind(f"{made}/s")
            Path(made, "f").write_bytes(bytes(2**16))
    except OSError as error:
        raise InputError(
            f"Ray keeps its sockets and logs in {folder}/ray, which cannot be written ({_reason(error)}): {remedy}"
        ) from None


def check_shared_memory() -> None:
    """Raise InputError if shared memory cannot be written. If it is only small, Ray's objects go to the temporary folder."""
    if not sys.platform.startswith("linux"):
        return
    try:
        with tempfile.TemporaryFile(dir=SHARED) as made:
            made.write(bytes(2**12))
    except OSError as error:
        raise InputError(
            f"{SHARED} cannot be written ({_reason(error)}), but Ray's objects and Python's locks need it: mount a tmpfs at "
            f"{SHARED} that this user may write"
        ) from None


def _reason(error: OSError) -> str:
    """The error without its path, which is a temporary one."""
    return (os.strerror(error.errno) if error.errno else str(error)).lower()
