"""One command at a time on a run's folder: who holds it, and whether that one is still alive.

The holder creates a file with a token of its own and a counter that it raises every few seconds. Another command takes the
run only if the holder's process is gone from this machine, or, for a holder that cannot be seen from here, if the counter
stands still for a while: no clock is compared with another, and no host name. One command decides at a time (`entering`), and
one that is refused has written nothing. The holder is asked to stop by a file beside it that names its token.
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
"""What each of the files holds at least."""
BEAT_SECONDS = 3.0
PATIENCE_SECONDS = 12.0
"""A counter that stands still for so long belongs to a holder that is gone."""


class RunLock:
    """Holds a run's folder, or another, while the block runs. Raises InputError where another command holds it."""

    def __init__(self, folder: Store, report: Callable[[str], None], what: str = "the run"):
        """`what` the folder is of, for people."""
        self.file, self.report, self.what = folder / HOLDER, report, what
        self.token, self.beats = uuid.uuid4().hex, 0
        self.taken = False
        """Whether another command has taken the run meanwhile."""
        self.stopping = ""
        """Who asked the command to stop, if somebody did."""
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
        """Let the run end at its next step boundary."""
        self.stopping = by

    def _wait_for_other(self) -> bool:
        """Whether there is no holder's file at all; False if one is that of a holder that is gone. Raises InputError."""
        if not self.file.exists():
            return True
        if (other := _read(self.file)) is None:
            time.sleep(BEAT_SECONDS)  # damaged, or not yet whole
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
        """Whether the folder is now this command's. A file that has come meanwhile is another's."""
        if free and self.file.is_local:
            return create(self.file, self._content())
        self.file.write_text(self._content())
        return True

    def _beat(self) -> None:
        while not self.ending.wait(BEAT_SECONDS):
            with suppress(InputError):  # storage may be away for a while
                other = _read(self.file)
                # A file that is gone after a pause of this process (it was frozen) was another's, who had time to end.
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
    """What the folder's holder tells; None where there is none, or it is damaged. Raises InputError where storage does not."""
    return _read(folder / HOLDER)


def is_held(folder: Store) -> bool:
    """Whether a command holds the folder and lives. It takes some seconds to tell where that runs on another machine.

    Raises InputError where storage does not tell.
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
    """None where there is none, or one that is damaged. Raises InputError where storage does not tell."""
    if not file.exists():
        return None
    try:
        found = json.loads(file.read_text())
        whole = isinstance(found, dict) and all(type(found.get(name)) is kind for name, kind in _FIELDS[file.name].items())
        return found if whole and found.get("pid", 0) >= 0 else None
    except (ValueError, RecursionError):
        return None
    except InputError:
        if file.exists():
            raise
        return None  # its holder has just gone


def _now() -> float:
    """Seconds, which pass while the machine sleeps, too."""
    return time.clock_gettime(getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC))


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container's user may have no name
        return str(os.getuid())
