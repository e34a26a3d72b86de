"""A Ray of a command's own on this machine: its start, its token, and what it must be able to write.

Ray reports a folder that it cannot write after its patience has run out, or with a traceback. So each is tried first.
"""

from __future__ import annotations

import os
import secrets
import shutil
import socket
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from foundray.errors import InputError
from foundray.local_node import TOO_BUSY
from foundray.signals import spared

OBJECT_STORE = 2**30
"""Bytes of shared memory for Ray's objects."""
SHARED = Path("/dev/shm")
SOCKET_BYTES = 107
"""Longest path of a Unix socket."""
SESSION = "ray/session_2026-01-01_00-00-00_000000_1000000/sockets/plasma_store.1"
"""What Ray appends to the temporary folder, at the longest."""
TOKEN_PATH = "RAY_AUTH_TOKEN_PATH"


@contextmanager
def local_ray(cores: int, quiet: dict[str, Any]) -> Iterator[Any]:
    """Ray, started on this machine while the block runs; `quiet` are further arguments of `ray.init`. Raises InputError."""
    import ray

    check_temporary_folder()
    check_shared_memory()
    with _own_token():
        try:
            _start(ray, {"num_cpus": cores, **quiet})
            yield ray
        finally:
            ray.shutdown()


def _start(ray: Any, arguments: dict[str, Any]) -> None:
    for again in (True, False):
        try:
            with spared():
                ray.init(address="local", object_store_memory=OBJECT_STORE, include_dashboard=False, **arguments)
            return
        except Exception as error:  # Ray raises many kinds here, bare Exception among them if the machine is too busy
            ray.shutdown()  # what was begun before it failed
            why = (str(error).splitlines() or [type(error).__name__])[0]
            if not (again and TOO_BUSY in why):
                raise InputError(f"a local Ray does not start: {why}; `foundray doctor` looks for the cause") from None


def temporary_folder() -> Path:
    """Where Ray keeps its sockets and logs, by its own order."""
    return Path(os.environ.get("RAY_TMPDIR") or os.environ.get("TMPDIR") or "/tmp").absolute()


def check_temporary_folder() -> None:
    """Raises InputError if Ray cannot make its sockets and files there."""
    folder = temporary_folder()
    length = len(os.fsencode(folder / SESSION))
    if length > SOCKET_BYTES:
        raise InputError(
            f"the path of Ray's temporary folder {folder} is too long: a local Ray's sockets lie in it, and theirs would have "
            f"{length} bytes of at most {SOCKET_BYTES}; set RAY_TMPDIR to a folder with a short path, such as /tmp"
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
            f"a local Ray keeps its sockets and logs in {folder}/ray, which cannot be written ({_reason(error)}): set "
            "RAY_TMPDIR to a folder of yours with a short path"
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


@contextmanager
def _own_token() -> Iterator[None]:
    """Give Ray a token made for this block: Ray would keep one in the home folder, which may be read-only or missing.

    A token that the environment names is used instead.
    """
    from ray._private.authentication.authentication_token_setup import AuthenticationTokenLoader

    named = os.environ.get(TOKEN_PATH)
    if os.environ.get("RAY_AUTH_TOKEN") or (named and os.access(named, os.R_OK)):
        yield
        return
    folder = Path(tempfile.mkdtemp(prefix="foundray-token-", dir=_made(temporary_folder())))  # mode 700
    try:
        (folder / "token").write_text(secrets.token_hex(32))
        os.environ[TOKEN_PATH] = str(folder / "token")
        AuthenticationTokenLoader.instance().reset_cache()
        yield
    finally:
        if named is None:
            os.environ.pop(TOKEN_PATH, None)
        else:
            os.environ[TOKEN_PATH] = named
        AuthenticationTokenLoader.instance().reset_cache()
        shutil.rmtree(folder, ignore_errors=True)


def _made(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _reason(error: OSError) -> str:
    """Without the path, which is of no folder that anybody knows."""
    return (os.strerror(error.errno) if error.errno else str(error)).lower()
