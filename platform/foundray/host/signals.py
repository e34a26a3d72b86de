"""Ctrl-C, SIGTERM and a closed terminal (SIGHUP): each asks a command to end.

The first one lets a run end after the current step, with a checkpoint; the second ends the command quickly, the third at
once. Commands that have nothing to finish end quickly at the first.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Any

ASKING = {"SIGINT": "Ctrl-C", "SIGTERM": "SIGTERM", "SIGHUP": "a closed terminal"}
"""Signals that ask a command to end, and their names for people."""
AGAIN_SECONDS = 0.3
"""A signal this soon after another is the same one: `timeout`, shells and `make` send theirs twice."""
QUICK_SECONDS = 9.0
"""Longest time a command takes to end quickly."""
TELL_SECONDS = 1.0
"""If ending takes longer than this, as shutting down Ray does, the command says that it is ending."""
SHOW_CURSOR = b"\x1b[?25h"
LEAVE_SCREEN = b"\x1b[?1049l"

Handler = Callable[[int, FrameType | None], Any]


class _SignalState:
    """Which signals this process has received. There is one instance, as there is one set of signals."""

    def __init__(self) -> None:
        self.depth = 0
        """Number of enclosing `heeded` blocks."""
        self.handler: Handler | None = None
        """Handler of the innermost block."""
        self.on_screen = False
        """Whether the terminal shows its alternate screen."""
        self.forget()

    def forget(self) -> None:
        self.last, self.at = 0, -AGAIN_SECONDS
        """The last signal that counted, and its time."""
        self.ending = False
        """Whether the command was asked to end quickly."""
        self.exits = False
        """Whether this process is a command, which may be ended."""
        self.timers: list[threading.Timer] = []

    def is_news(self, number: int) -> bool:
        """Whether a signal asks for more than the last. SIGHUP never does: nobody presses a key in a closed terminal."""
        now = time.monotonic()
        if self.last and (now - self.at < AGAIN_SECONDS or number == signal.SIGHUP):
            return False
        self.last, self.at = number, now
        return True

    def end(self) -> None:
        """End quickly; at once if that was asked before."""
        if self.exits:
            if self.ending:
                _exit(self.last)
            self.timers = [threading.Timer(TELL_SECONDS, _say_ending), threading.Timer(QUICK_SECONDS, _exit, [self.last])]
            for timer in self.timers:
                timer.daemon = True
                timer.start()
        self.ending = True
        raise KeyboardInterrupt


_state = _SignalState()


@contextmanager
def heeded(stop: Callable[[str], None] | None = None, exits: bool = False) -> Iterator[None]:
    """Handle signals that ask to end while the block runs.

    The first calls `stop` with its name; the next one, or the first without `stop`, raises KeyboardInterrupt. `exits` marks
    the process as a command: it ends within ten seconds after KeyboardInterrupt, and at once on one more signal. Ignored
    signals (`nohup`) stay ignored. Outside the main thread, nothing changes.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    stopping = False

    def handle(number: int, frame: FrameType | None) -> None:
        nonlocal stopping
        if not _state.is_news(number):
            return
        if stop is None or stopping or _state.ending:
            return _state.end()
        stopping = True
        name = signal.Signals(number).name
        stop(name)
        print(
            f"foundray: {ASKING[name]}: ending after the current step, with a checkpoint; press again to end at once",
            file=sys.stderr,
            flush=True,
        )

    before, outer = {number: signal.getsignal(number) for number in _numbers()}, _state.handler
    _state.depth, _state.handler, _state.exits = _state.depth + 1, handle, _state.exits or exits
    renew()
    try:
        yield
    finally:
        _state.depth, _state.handler = _state.depth - 1, outer
        for number, handler in before.items():
            if handler is not None:
                signal.signal(number, handler)
        if not _state.depth:
            for timer in _state.timers:
                timer.cancel()
            _state.forget()


def renew() -> None:
    """Restore our handlers after another library has replaced them, as Ray does for SIGTERM."""
    if _state.handler and threading.current_thread() is threading.main_thread():
        for number in _numbers():
            if signal.getsignal(number) != signal.SIG_IGN:
                signal.signal(number, _state.handler)


@contextmanager
def on_other_screen() -> Iterator[None]:
    """Mark that the block shows the terminal's alternate screen, so that a command that ends at once leaves it first."""
    _state.on_screen = True
    try:
        yield
    finally:
        _state.on_screen = False


def leave() -> None:
    """From now on, a signal ends the process silently and at once: only the interpreter's shutdown is left."""
    for number in _numbers():
        if signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, lambda number, frame: os._exit(128 + number))


def exit_status(name: str | None = None) -> int | None:
    """Exit status, as in shells, after the named signal (default: the last one); None if it does not ask to end."""
    if name is None:
        return 128 + _state.last if _state.last else None
    return 128 + signal.Signals[name] if name in ASKING else None


@contextmanager
def spared() -> Iterator[None]:
    """Give Ray's processes that start in the block sessions of their own.

    Otherwise a signal from a terminal or shell to the command's process group would end them before the last checkpoint is
    written. They still end with the command, however that ends: Ray ensures it.
    """
    from ray._private import services  # there is no public way

    popen = services.ConsolePopen

    class InOwnSession(popen):  # type: ignore[misc, valid-type]
        def __init__(self, *arguments: Any, **options: Any):
            super().__init__(*arguments, **{**options, "start_new_session": True})

    services.ConsolePopen = InOwnSession
    try:
        yield
    finally:
        services.ConsolePopen = popen


def _numbers() -> list[signal.Signals]:
    return [signal.Signals[name] for name in ASKING if name in signal.Signals.__members__]


def _say_ending() -> None:
    print("foundray: ending; press again to end at once", file=sys.stderr, flush=True)


def _exit(number: int) -> None:
    """End at once, but leave the terminal usable."""
    with suppress(OSError):
        if _state.on_screen and os.isatty(1):
            os.write(1, LEAVE_SCREEN)
        os.write(2, (SHOW_CURSOR if os.isatty(2) else b"") + b"foundray: ended at once\n")
    os._exit(128 + number)
