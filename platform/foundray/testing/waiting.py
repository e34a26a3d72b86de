"""Waiting for what happens beside a test."""

from __future__ import annotations

import contextlib
import subprocess
import time
from collections.abc import Callable
from typing import Protocol, TypeVar

T = TypeVar("T")


class Process(Protocol):
    """A process that was started, such as `subprocess.Popen`."""

    def poll(self) -> int | None:
        """The exit status, or None while it runs."""


def wait_until(
    condition: Callable[[], T],
    seconds: float,
    what: str | Callable[[], object],
    process: Process | None = None,
    pause: float = 0.05,
) -> T:
    """Wait until `condition()` is true, and give its value; look every `pause` seconds.

    `what` says what is waited for, or is called for it if the wait fails. Raises `TimeoutError` after `seconds`, which should
    be so long that only a hang reaches them, and `RuntimeError`, with its output, if `process` ends first.
    """
    deadline = time.monotonic() + seconds
    while True:
        late = time.monotonic() >= deadline
        status = process.poll() if process else None  # before the look: what it did last still counts
        if value := condition():
            return value
        if status is not None:
            raise RuntimeError(f"the process ended with {status} before {_said(what)}{_output(process)}")
        if late:
            raise TimeoutError(f"not within {seconds:g} s: {_said(what)}")
        time.sleep(pause)


def _said(what: str | Callable[[], object]) -> object:
    return what() if callable(what) else what


def _output(process: Process | None) -> str:
    """What the process wrote to its pipes."""
    if isinstance(process, subprocess.Popen):
        with contextlib.suppress(subprocess.TimeoutExpired):  # a child of it still holds a pipe
            written = [text for text in process.communicate(timeout=10) if text]
            return "".join(f"\n{text.decode(errors='replace') if isinstance(text, bytes) else text}" for text in written)
    return ""
