"""Mutual exclusion while a command decides whether to take a folder: a file lock, or claims on object stores."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from foundray.errors import InputError
from foundray.host.processes import lives_here
from foundray.storage import Store, writing

POLL_SECONDS = 0.1
LOCK = ".holder.lock"
"""File to lock if the folder itself cannot be locked, as on NFS."""
CLAIM = "entering-"
"""Prefix of the names of claims."""
_BUSY = (errno.EWOULDBLOCK, errno.EAGAIN, errno.EACCES)


@contextlib.contextmanager
def alone(folder: Store, token: str, me: dict[str, Any], patience: float) -> Iterator[Callable[[], None]]:
    """Exclude other commands on the same folder while the block runs. `me` identifies this process.

    Yields a function that raises InputError once the block has taken longer than others wait for it: call it before a
    decision. Raises InputError if others do not leave within four times `patience` seconds.
    """
    if folder.is_local:
        with _locked(folder, 4 * patience):
            yield lambda: None
    else:
        with _claimed(folder, token, me, patience) as in_time:
            yield in_time


def create(file: Store, content: str) -> bool:
    """Create a local file atomically with its content; return False if it exists."""
    path = Path(file.path)
    beside = Path(f"{path}.{os.getpid()}.tmp")
    with writing(file):
        try:
            beside.write_text(content)
            try:
                os.link(beside, path)
            except FileExistsError:
                return False
            except OSError:  # a filesystem without links, such as FAT
                try:
                    descriptor = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666)
                except FileExistsError:
                    return False
                with os.fdopen(descriptor, "w") as stream:
                    stream.write(content)
            return True
        finally:
            beside.unlink(missing_ok=True)


@contextlib.contextmanager
def _locked(folder: Store, seconds: float) -> Iterator[None]:
    """Hold a kernel lock, which is released when the process ends, however it ends."""
    path = Path(folder.path)
    with writing(folder):
        path.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_RDONLY)
    try:
        if not _lock(descriptor, folder, seconds):  # NFS locks only files open for writing
            os.close(descriptor)
            descriptor = -1
            with writing(folder):
                descriptor = os.open(path / LOCK, os.O_RDWR | os.O_CREAT, 0o666)
            _lock(descriptor, folder, seconds)  # without locks, only exclusive creation protects
        yield
    finally:
        if descriptor >= 0:
            os.close(descriptor)


def _lock(descriptor: int, folder: Store, seconds: float) -> bool:
    """Wait for the lock; False if the filesystem has no locks. Raises InputError after `seconds`."""
    deadline = time.monotonic() + seconds
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        except OSError as error:
            if error.errno not in _BUSY:
                return False
        if time.monotonic() > deadline:
            raise _held_up(folder, seconds)
        time.sleep(POLL_SECONDS)


@contextlib.contextmanager
def _claimed(folder: Store, token: str, me: dict[str, Any], patience: float) -> Iterator[Callable[[], None]]:
    """Hold a claim, on storage with read-after-write consistency: a command that sees only its own claim is alone.

    Each writes its claim before it looks, and removes it only when done: so of two, the one that looked last has seen the
    other. If two see each other, the one with the greater token withdraws for a moment.
    """
    mine = folder / f"{CLAIM}{token}.json"
    seen: dict[str, float] = {}
    began, claimed = time.monotonic(), 0.0
    try:
        while True:
            others, now = _others(folder, mine, seen, 4 * patience), time.monotonic()
            first = not others or mine.name < min(others)
            if claimed and not others:
                break
            if first and now - claimed > patience:  # rewritten regularly, so that others see it is alive
                mine.write_text(json.dumps(me | {"at": now}))
                claimed = time.monotonic()
                continue
            if claimed and not first:
                mine.delete_file()
                claimed = 0.0
            if now - began > 8 * patience:
                raise _held_up(folder, 8 * patience)
            time.sleep(POLL_SECONDS)

        def in_time() -> None:
            if time.monotonic() - claimed > 3 * patience:
                raise InputError(f"{folder} answers too slowly to tell whether another command holds it; try again")

        yield in_time
    finally:
        with contextlib.suppress(InputError):
            mine.delete_file()


def _others(folder: Store, mine: Store, seen: dict[str, float], limit: float) -> list[str]:
    """Names of others' claims. Removes dead ones: of ended processes here, or unchanged for `limit` seconds."""
    found = []
    for claim in folder.children():
        if not claim.name.startswith(CLAIM) or claim.name == mine.name:
            continue
        try:
            content = claim.read_text()
            alive = lives_here(json.loads(content))
        except (InputError, ValueError):
            content, alive = "", None  # just deleted, or damaged
        since = seen.setdefault(f"{claim.name} {content}", time.monotonic())
        if alive is False or time.monotonic() - since > limit:
            claim.delete_file()
        else:
            found.append(claim.name)
    return found


def _held_up(folder: Store, seconds: float) -> InputError:
    return InputError(
        f"another command has been about to take {folder} for {seconds:.0f} s; see whether it hangs, and try again"
    )
