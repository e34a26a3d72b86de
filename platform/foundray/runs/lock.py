"""Lock of a run's folder: one command at a time, with detection of dead holders.

The holder creates a file with its own token and a counter that it increments every few seconds. Another command takes the
run only if the holder's process is gone from this machine or, for a holder not visible from here, if the counter stands
still for a while: no clocks or host names are compared. One command decides at a time (`claims`), and a rejected one has
written nothing. A file next to the holder's, which names its token, asks it to stop.
"""

from __future__ import annotations

import getpass
import json
import os
import platform
import threading
import time
import uuid
from collections.abc import Callable
from contextlib import suppress
from types import TracebackType
from typing import Any

import psutil

from foundray.errors import InputError
from foundray.host.processes import home, identity, lives_here
from foundray.runs.claims import alone, create
from foundray.storage import Store

HOLDER, REQUEST = "holder.json", "stop.json"
_FIELDS: dict[str, dict[str, type]] = {
    HOLDER: {"token": str, "beats": int, "host": str, "pid": int, "process": str, "user": str},
    REQUEST: {"token": str, "by": str},
}
"""Required fields of each file."""
BEAT_SECONDS = 3.0
PATIENCE_SECONDS = 12.0
"""If the counter stands still for this long, the holder is gone."""


class RunLock:
    """Holds the lock of a folder while the block runs. Raises InputError if another command holds it."""

    def __init__(self, folder: Store, report: Callable[[str], None], what: str = "the run"):
        """`what` names the folder's content in messages."""
        self.file, self.report, self.what = folder / HOLDER, report, what
        self.token, self.beats = uuid.uuid4().hex, 0
        self.taken = False
        """Whether another command has taken the lock meanwhile."""
        self.stopping = ""
        """Who asked the command to stop; empty if nobody did."""
        self.ending = threading.Event()

    def __enter__(self) -> RunLock:
        with alone(self.file.parent, self.token, self._me(), PATIENCE_SECONDS) as in_time:
            while True:
                free = self._wait_for_other()
                in_time()
                if self._take(free):
                    break
        self.beaten = _now()
        self.thread = threading.Thread(target=self._beat, daemon=True)
        self.thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None) -> None:
        self.ending.set()
        self.thread.join()
        with suppress(InputError, OSError):
            if not self.taken and (now := _read(self.file)) and now["token"] == self.token:
                for file in (self.file, _request(self.file.parent)):
                    with suppress(InputError):
                        file.delete_file()

    def stop(self, by: str) -> None:
        """End the run at its next step boundary."""
        self.stopping = by

    def _wait_for_other(self) -> bool:
        """Whether there is no holder's file; False if its holder is gone. Raises InputError if the holder is alive."""
        if not self.file.exists():
            return True
        if (other := _read(self.file)) is None:
            time.sleep(BEAT_SECONDS)  # damaged, or not yet complete
            if (other := _read(self.file)) is None:
                return not self.file.exists()
        who = f"process {other['pid']} of {other['user']} on {other['host']}"
        refused = InputError(
            f"{self.what} {self.file.parent} is running: {who} holds it; stop that one first, or wait for its end"
        )
        if (here := lives_here(other)) is not None:
            if here:
                raise refused
            return False
        self.report(f"{who} held {self.what}; waiting {PATIENCE_SECONDS:.0f} s to see whether it is gone")
        time.sleep(PATIENCE_SECONDS)
        if (now := _read(self.file)) is None:
            return not self.file.exists()
        if (now["token"], now["beats"]) != (other["token"], other["beats"]):
            raise refused
        return False

    def _take(self, free: bool) -> bool:
        """Take the lock; False if another command created the file meanwhile."""
        if free and self.file.is_local:
            return create(self.file, self._content())
        self.file.write_text(self._content())
        return True

    def _beat(self) -> None:
        while not self.ending.wait(BEAT_SECONDS):
            with suppress(InputError):  # storage may be away for a while
                other = _read(self.file)
                # If the file is gone after this process was frozen, another command has held the lock and ended.
                gone = _now() - self.beaten > PATIENCE_SECONDS and not self.file.exists()
                if gone or (other is not None and other["token"] != self.token):
                    self.taken = True
                    return
                self.file.write_text(self._content())
                self.beaten = _now()
                if (request := _read(_request(self.file.parent))) and request["token"] == self.token:
                    self.stopping = request["by"]

    def _content(self) -> str:
        self.beats += 1
        return json.dumps({"token": self.token, "beats": self.beats, **self._me()})

    def _me(self) -> dict[str, Any]:
        me = psutil.Process()
        return {"host": platform.node(), "pid": me.pid, "process": identity(me), "home": home(), "user": _user()}


def holder_of(folder: Store) -> dict[str, Any] | None:
    """The holder's file; None if missing or damaged. Raises InputError if storage does not answer."""
    return _read(folder / HOLDER)


def is_held(folder: Store) -> bool:
    """Whether a living command holds the folder. Takes some seconds if that runs on another machine.

    Raises InputError if storage does not answer.
    """
    if (holder := _read(folder / HOLDER)) is None:
        return False
    if (here := lives_here(holder)) is not None:
        return here
    deadline = time.monotonic() + PATIENCE_SECONDS
    while time.monotonic() < deadline:
        time.sleep(0.5)
        with suppress(InputError):  # storage may be away for a while
            if (now := _read(folder / HOLDER)) is None:
                return False
            if (now["token"], now["beats"]) != (holder["token"], holder["beats"]):
                return True
    return False


def ask_to_stop(folder: Store) -> None:
    """Ask the command that holds the folder, if there is one, to stop at its next step boundary."""
    if holder := _read(folder / HOLDER):
        _request(folder).write_text(json.dumps({"token": holder["token"], "by": f"{_user()} on {platform.node()}"}))


def _request(folder: Store) -> Store:
    return folder / REQUEST


def _read(file: Store) -> dict[str, Any] | None:
    """Read a file of the lock; None if missing or damaged. Raises InputError if storage does not answer."""
    if not file.exists():
        return None
    try:
        found = json.loads(file.read_text())
        if not isinstance(found, dict) or any(type(found.get(name)) is not kind for name, kind in _FIELDS[file.name].items()):
            return None
        return found if found.get("pid", 0) >= 0 else None
    except (ValueError, RecursionError):
        return None
    except InputError:
        if file.exists():
            raise
        return None  # its holder has just deleted it


def _now() -> float:
    """Monotonic seconds that also count while the machine sleeps."""
    return time.clock_gettime(getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC))


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container's user may have no name
        return str(os.getuid())
