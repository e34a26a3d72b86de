"""Ctrl-C, SIGTERM and a closed terminal (SIGHUP): each asks a command to end.

The first one lets a run end after the step under way, with a checkpoint; the next ends the command quickly, and one more at
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
"""Signals that ask a command to end, and what they are called."""
AGAIN_SECONDS = 0.3
"""A signal so soon after another is the same one: `timeout`, shells and `make` send theirs twice."""
QUICK_SECONDS = 9.0
"""Longest that a command takes to end once it was told not to finish anything."""
TELL_SECONDS = 1.0
"""If it takes longer than this, as Ray's end does, the command says that it is ending."""
SHOW_CURSOR = b"\x1b[?25h"
LEAVE_SCREEN = b"\x1b[?1049l"

Handler = Callable[[int, FrameType | None], Any]


class _Heed:
    """What was asked of this process. There is one, as there is one set of signals."""

    def __init__(self) -> None:
        self.depth = 0
        """Blocks of `heeded` around the present place."""
        self.handler: Handler | None = None
        """The innermost one's."""
        self.on_screen = False
        """Whether the terminal shows its other screen."""
        self.forget()

    def forget(self) -> None:
        self.last, self.at = 0, -AGAIN_SECONDS
        """The last signal that was news, and when it came."""
        self.ending = False
        """Whether the command was told to end quickly."""
        self.exits = False
        """Whether this process is a command, and may be ended."""
        self.timers: list[threading.Timer] = []

    def is_news(self, number: int) -> bool:
        """Whether a signal asks for more than the one before. Nobody presses a key again in a closed terminal."""
        now = time.monotonic()
        if self.last and (now - self.at < AGAIN_SECONDS or number == signal.SIGHUP):
            return False
        self.last, self.at = number, now
        return True

    def end(self) -> None:
        """End quickly; at once, where that was asked before."""
        if self.exits:
            if self.ending:
                _exit(self.last)
            self.timers = [threading.Timer(TELL_SECONDS, _tell), threading.Timer(QUICK_SECONDS, _exit, [self.last])]
            for timer in self.timers:
                timer.daemon = True
                timer.start()
        self.ending = True
        raise KeyboardInterrupt


_heed = _Heed()


@contextmanager
def heeded(stop: Callable[[str], None] | None = None, exits: bool = False) -> Iterator[None]:
    """While the block runs, a signal that asks to end calls `stop` with its name; without `stop`, or when it comes again, it
    raises KeyboardInterrupt.

    `exits` says that the process is a command: after KeyboardInterrupt it ends within ten seconds, and at one more signal at
    once. Signals that the process ignores (`nohup`) stay ignored. Outside of the main thread, nothing is changed.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    stopping = False

    def answer(number: int, frame: FrameType | None) -> None:
        nonlocal stopping
        if not _heed.is_news(number):
            return
        if stop is None or stopping or _heed.ending:
            return _heed.end()
        stopping = True
        name = signal.Signals(number).name
        stop(name)
        print(
            f"foundray: {ASKING[name]}: ending after the step under way, with a checkpoint; press again to end at once",
            file=sys.stderr,
            flush=True,
        )

    before, outer = {number: signal.getsignal(number) for number in _numbers()}, _heed.handler
    _heed.depth, _heed.handler, _heed.exits = _heed.depth + 1, answer, _heed.exits or exits
    renew()
    try:
        yield
    finally:
        _heed.depth, _heed.handler = _heed.depth - 1, outer
        for number, handler in before.items():
            if handler is not None:
                signal.signal(number, handler)
        if not _heed.depth:
            for timer in _heed.timers:
                timer.cancel()
            _heed.forget()


def renew() -> None:
    """Heed again what another library has meanwhile taken over, as Ray does with SIGTERM."""
    if _heed.handler and threading.current_thread() is threading.main_thread():
        for number in _numbers():
            if signal.getsignal(number) != signal.SIG_IGN:
                signal.signal(number, _heed.handler)


@contextmanager
def on_other_screen() -> Iterator[None]:
    """The block shows the terminal's other screen, which a command that ends at once leaves first."""
    _heed.on_screen = True
    try:
        yield
    finally:
        _heed.on_screen = False


def leave() -> None:
    """From now on a signal ends the process at once and quietly: its command is over, and only the interpreter has to end."""
    for number in _numbers():
        if signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, lambda number, frame: os._exit(128 + number))


def exit_status(name: str | None = None) -> int | None:
    """That of a command which the signal of this name ended, as shells have it; by default, of the one that came last."""
    if name is None:
        return 128 + _heed.last if _heed.last else None
    return 128 + signal.Signals[name] if name in ASKING else None


@contextmanager
def spared() -> Iterator[None]:
    """Ray's processes that are started in the block get sessions of their own.

    What a terminal or a shell sends to a command's whole process group would end them before the last checkpoint is written.
    They end with the command, however that ends: Ray sees to it.
    """
    from ray._private import services  # there is no public way

    popen = services.ConsolePopen

    class Apart(popen):  # type: ignore[misc, valid-type]
        def __init__(self, *arguments: Any, **options: Any):
            super().__init__(*arguments, **{**options, "start_new_session": True})

    services.ConsolePopen = Apart
    try:
        yield
    finally:
        services.ConsolePopen = popen


def _numbers() -> list[signal.Signals]:
    return [signal.Signals[name] for name in ASKING if name in signal.Signals.__members__]


def _tell() -> None:
    print("foundray: ending; press again to end at once", file=sys.stderr, flush=True)


def _exit(number: int) -> None:
    """At once, leaving the terminal usable."""
    with suppress(OSError):
        if _heed.on_screen and os.isatty(1):
            os.write(1, LEAVE_SCREEN)
        os.write(2, (SHOW_CURSOR if os.isatty(2) else b"") + b"foundray: ended at once\n")
    os._exit(128 + number)
