"""One command at a time on a run's folder: who holds it, and whether that one is still alive.

The holder writes a file with a token of its own and a counter that it raises every few seconds. Somebody else takes the
run only when the holder's process is gone from this machine, or, for a holder elsewhere, when the counter stands still
for a while: no clock is compared with another. The holder is asked to stop by a file beside it that names its token.
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
from foundray.processes import identity, living
from foundray.storage import Store

HOLDER = "holder.json"
BEAT_SECONDS = 3.0
PATIENCE_SECONDS = 12.0
"""A counter that stands still for so long belongs to a holder that is gone."""


class Holder:
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

    def __enter__(self) -> Holder:
        self._wait_for_other()
        self._write()
        self.thread = threading.Thread(target=self._beat, daemon=True)
        self.thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None) -> None:
        self.ending.set()
        self.thread.join()
        for file in () if self.taken else (self.file, _request(self.file.parent)):
            with suppress(InputError, OSError):
                file.filesystem.delete_file(file.path)

    def stop(self, by: str) -> None:
        """Let the run end at its next step boundary."""
        self.stopping = by

    def _wait_for_other(self) -> None:
        if (other := _read(self.file)) is None:
            return
        who = f"process {other['pid']} of {other['user']} on {other['host']}"
        refused = InputError(
            f"{self.what} {self.file.parent} is running: {who} holds it; stop that one first, or wait for its end"
        )
        if (here := lives_here(other)) is not None:
            if here:
                raise refused
            return
        self.report(f"{who} held {self.what}; waiting {PATIENCE_SECONDS:.0f} s to see whether it is gone")
        time.sleep(PATIENCE_SECONDS)
        if (now := _read(self.file)) is not None and (now["token"], now["beats"]) != (other["token"], other["beats"]):
            raise refused

    def _beat(self) -> None:
        while not self.ending.wait(BEAT_SECONDS):
            with suppress(InputError):  # storage may be away for a while
                other = _read(self.file)
                if other is not None and other["token"] != self.token:
                    self.taken = True
                    return
                self._write()
                if (request := _read(_request(self.file.parent))) and request["token"] == self.token:
                    self.stopping = request["by"]

    def _write(self) -> None:
        self.beats += 1
        me = psutil.Process()
        fields = {"token": self.token, "beats": self.beats, "host": platform.node(), "pid": me.pid}
        self.file.write_text(json.dumps({**fields, "process": identity(me), "user": _user()}))


def lives_here(holder: dict[str, Any]) -> bool | None:
    """Whether a holder's process lives on this machine; None where it is of another one."""
    if holder["host"] != platform.node():
        return None
    return living(holder["pid"], holder.get("process", "")) is not None


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
    return folder / "stop.json"


def _read(file: Store) -> dict[str, Any] | None:
    """None where there is none, or one that is damaged. Raises InputError where storage does not tell."""
    if not file.exists():
        return None
    try:
        return dict(json.loads(file.read_text()))
    except ValueError:
        return None
    except InputError:
        if file.exists():
            raise
        return None  # its holder has just gone


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container's user may have no name
        return str(os.getuid())
