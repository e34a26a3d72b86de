"""What a Ray on this machine writes to, tried before it starts: its session's folder, and shared memory.

Ray reports what it cannot write after its patience has run out, or with a traceback.
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
"""Bytes of shared memory for the objects of a Ray of our own."""
SHARED = Path("/dev/shm")
SOCKET_BYTES = 107
"""Longest path of a Unix socket."""
SESSION = "ray/session_2026-01-01_00-00-00_000000_1000000/sockets/plasma_store.1"
"""What Ray appends to the temporary folder, at the longest."""
MEND = "set RAY_TMPDIR to a folder of yours with a short path, such as /tmp"


def temporary_folder() -> Path:
    """Where Ray keeps its sockets and logs, by its own order."""
    return Path(os.environ.get("RAY_TMPDIR") or os.environ.get("TMPDIR") or "/tmp").absolute()


def check_temporary_folder(folder: Path | None = None, mend: str = MEND) -> None:
    """Raises InputError if Ray cannot make its sockets and files in `folder` (default: its own); `mend` says what to do."""
    folder = folder or temporary_folder()
    if not str(folder).isascii():
        raise InputError(
            f"Ray takes no folder for its sockets and logs with letters beyond ASCII in its path, as {folder}: {mend}"
        )
    length = len(os.fsencode(folder / SESSION))
    if length > SOCKET_BYTES:
        raise InputError(
            f"the path of {folder} is too long: Ray's sockets lie in it, and the paths of these would have {length} bytes of "
            f"at most {SOCKET_BYTES}: {mend}"
        )
    there = folder / "ray"
    with suppress(PermissionError):  # what cannot be looked into cannot be written either
        while not there.exists():  # Ray makes those that are missing
            there = there.parent
    try:
        with tempfile.TemporaryDirectory(prefix="t", dir=there) as made, socket.socket(socket.AF_UNIX) as tried:
            tried.bind(f"{made}/s")
            Path(made, "f").write_bytes(bytes(2**16))
    except OSError as error:
        raise InputError(
            f"a Ray on this machine keeps its sockets and logs in {folder}/ray, which cannot be written ({_reason(error)}): "
            f"{mend}"
        ) from None


def check_shared_memory() -> None:
    """Raises InputError if nothing can be written there: where it is only small, Ray's objects go to the temporary folder."""
    if not sys.platform.startswith("linux"):
        return
    try:
        with tempfile.TemporaryFile(dir=SHARED) as made:
            made.write(bytes(2**12))
    except OSError as error:
        raise InputError(
            f"{SHARED} cannot be written ({_reason(error)}), and Ray's objects and Python's locks lie there: mount a tmpfs at "
            f"{SHARED} that this user may write"
        ) from None


def _reason(error: OSError) -> str:
    """Without the path, which is of no folder that anybody knows."""
    return (os.strerror(error.errno) if error.errno else str(error)).lower()
