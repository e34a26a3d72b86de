"""One command at a time on a run's folder: who holds it, and whether that one is still alive.

The holder writes a file with a token of its own and a counter that it raises every few seconds. Somebody else takes the
run only when the holder's process is gone from this machine, or, for a holder elsewhere, when the counter stands still
for a while: no clock is compared with another.
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

BEAT_SECONDS = 3.0
PATIENCE_SECONDS = 12.0
"""A counter that stands still for so long belongs to a holder that is gone."""


class Holder:
    """Holds a run's folder while the block runs. Raises InputError where another command holds it."""

    def __init__(self, folder: Store, report: Callable[[str], None]):
        self.file, self.report = folder / "holder.json", report
        self.token, self.beats = uuid.uuid4().hex, 0
        self.taken = False
        """Whether another command has taken the run meanwhile."""
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
        if not self.taken:
            with suppress(InputError, OSError):
                self.file.filesystem.delete_file(self.file.path)

    def _wait_for_other(self) -> None:
        if (other := self._read()) is None:
            return
        who = f"process {other['pid']} of {other['user']} on {other['host']}"
        refused = InputError(f"the run {self.file.parent} is running: {who} holds it; stop that one first, or wait for its end")
        if other["host"] == platform.node():
            if living(other["pid"], other.get("process", "")):
                raise refused
            return
        self.report(f"{who} held the run; waiting {PATIENCE_SECONDS:.0f} s to see whether it is gone")
        time.sleep(PATIENCE_SECONDS)
        if (now := self._read()) is not None and (now["token"], now["beats"]) != (other["token"], other["beats"]):
            raise refused

    def _beat(self) -> None:
        while not self.ending.wait(BEAT_SECONDS):
            with suppress(InputError):  # storage may be away for a while
                other = self._read()
                if other is not None and other["token"] != self.token:
                    self.taken = True
                    return
                self._write()

    def _write(self) -> None:
        self.beats += 1
        me = psutil.Process()
        fields = {"token": self.token, "beats": self.beats, "host": platform.node(), "pid": me.pid}
        self.file.write_text(json.dumps({**fields, "process": identity(me), "user": _user()}))

    def _read(self) -> dict[str, Any] | None:
        if not self.file.exists():
            return None
        try:
            return dict(json.loads(self.file.read_text()))
        except (InputError, ValueError):
            return None


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container's user may have no name
        return str(os.getuid())
