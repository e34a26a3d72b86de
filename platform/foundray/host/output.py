"""Standard output and standard error of a command, which may be gone (`| head`), full (`> log`) or closed (`2>&-`).

A command that does work never ends because of it: lines that cannot be written are dropped and counted, and reported once on
standard error. A command that only shows something ends, because it has nothing else to do.
"""

from __future__ import annotations

import errno
import io
import os
import select
import sys
import threading
from contextlib import suppress

WAIT_SECONDS = 60.0
"""Longest wait for the reader of a non-blocking stream."""
NAMES = {1: "stdout", 2: "stderr"}
CLOSED = OSError(errno.EBADF, os.strerror(errno.EBADF))


class Unwritable(Exception):
    """Standard output cannot be written, in a command that only shows something."""

    def __init__(self, error: OSError):
        super().__init__(f"standard output cannot be written: {error.strerror}")
        self.is_gone = isinstance(error, BrokenPipeError)
        """Whether its reader has gone, as `| head` does: no message is needed."""


class Stream(io.TextIOBase):
    """Text stream to a file descriptor that writes each line at once, so that no flush can fail at exit."""

    def __init__(self, number: int, encoding: str = "utf-8", is_closed: bool = False):
        self.number, self.codec, self.is_closed = number, encoding, is_closed
        self.shows = False
        """Whether a failure ends the command."""
        self.lost = 0
        """Lines dropped since the last line written."""
        self.reported = self.torn = False
        """Whether the loss was reported; whether the last line written lacks its end."""
        self.pending = ""
        self.lock = threading.RLock()  # a signal handler may write while its thread does

    @property
    def encoding(self) -> str:  # type: ignore[override]
        return self.codec

    @property
    def errors(self) -> str:  # type: ignore[override]
        return "replace"  # a terminal's encoding may lack characters

    def fileno(self) -> int:
        return self.number

    def isatty(self) -> bool:
        return not self.is_closed and os.isatty(self.number)

    def writable(self) -> bool:
        return True

    def write(self, text: str) -> int:
        with self.lock:
            self.pending += text
            if "\n" in text:
                self.flush()
        return len(text)

    def flush(self) -> None:
        with self.lock:
            text, self.pending = self.pending, ""
            if not text:
                return
            lines = "1 line" if self.lost == 1 else f"{self.lost} lines"
            missing = f"({lines} before this could not be written)\n" if self.lost else ""
            try:
                self._send(("\n" * self.torn + missing + text).encode(self.codec, "replace"))
                self.lost = 0
            except OSError as error:
                if self.shows:
                    raise Unwritable(error) from None
                self.lost += max(1, text.count("\n"))
                self._report(error)

    def _send(self, content: bytes) -> None:
        if self.is_closed:
            raise CLOSED
        left = memoryview(content)
        while left:
            try:
                left = left[os.write(self.number, left) :]
            except BlockingIOError as error:
                if not select.select([], [self.number], [], WAIT_SECONDS)[1]:
                    raise OSError(errno.EAGAIN, "nobody reads it") from error
            except OSError:
                self.torn = self.torn or len(left) < len(content)
                raise
        self.torn = False

    def _report(self, error: OSError) -> None:
        if self.number == 1 and not self.reported:
            self.reported = True
            with suppress(OSError, Unwritable):
                print(f"foundray: standard output cannot be written ({error.strerror}); continuing without it", file=sys.stderr)


def install() -> None:
    """Replace the interpreter's standard output and error by `Stream`s, also if they are closed."""
    _occupy()
    for number, name in NAMES.items():
        own, present = getattr(sys, f"__{name}__"), getattr(sys, name)
        if present is not own:  # replaced by someone else, such as a test
            continue
        if present is not None:
            with suppress(OSError):
                present.flush()
        setattr(sys, name, Stream(number, present.encoding if present else "utf-8", is_closed=present is None))


def must_be_written() -> None:
    """From now on, raise Unwritable if standard output cannot be written."""
    if isinstance(sys.stdout, Stream):
        sys.stdout.shows = True


def _occupy() -> None:
    """Open the null device for each closed standard stream: otherwise the next file would get its number, and its output."""
    for number in (0, 1, 2):
        try:
            os.fstat(number)
        except OSError:
            if (opened := os.open(os.devnull, os.O_RDWR)) != number:
                os.dup2(opened, number)
                os.close(opened)
