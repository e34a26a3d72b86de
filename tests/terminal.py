"""A command on a pseudo-terminal, as a person sees and leaves it."""

from __future__ import annotations

import codecs
import contextlib
import fcntl
import os
import pty
import re
import select
import signal
import struct
import subprocess
import termios
import threading
import time

from foundray.testing.waiting import wait_until

SECONDS = 300
ENTER, LEAVE, HIDE, SHOW = "\x1b[?1049h", "\x1b[?1049l", "\x1b[?25l", "\x1b[?25h"
"""Escape sequences: enter and leave the alternate screen, hide and show the cursor."""


def _sit_down() -> None:
    """Run in the command's process: make this its terminal, and restore the handling of signals, which `nohup` changes."""
    for number in (signal.SIGINT, signal.SIGQUIT, signal.SIGHUP, signal.SIGTERM):
        signal.signal(number, signal.SIG_DFL)
    fcntl.ioctl(0, termios.TIOCSCTTY, 0)


class Terminal:
    """A command on a pseudo-terminal of 80 by 24, which is the controlling terminal of its own session."""

    def __init__(self, *command: object):
        self.ours, theirs = pty.openpty()
        self.is_open = True
        self.resize(80, 24)
        self.before = termios.tcgetattr(theirs)
        environment = {key: value for key, value in os.environ.items() if key not in ("COLUMNS", "LINES", "NO_COLOR")}
        self.process = subprocess.Popen(
            list(map(str, command)),
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            env={**environment, "TERM": "xterm-256color"},
            preexec_fn=_sit_down,
            start_new_session=True,
        )
        self.theirs, self.output = theirs, ""
        self.plain, self.read = "", 0
        """(text so far, number of bytes of output that it covers)."""
        self.reader = threading.Thread(target=self._read, daemon=True)
        self.reader.start()

    def resize(self, columns: int, rows: int) -> None:
        """Resize the terminal; the command gets SIGWINCH."""
        fcntl.ioctl(self.ours, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    def press(self, keys: bytes) -> None:
        os.write(self.ours, keys)

    def interrupt(self) -> None:
        """Press Ctrl-C: the terminal sends SIGINT to the whole process group."""
        self.press(b"\x03")

    def hang_up(self) -> None:
        """Close the terminal under the command: the process group gets SIGHUP, and every write fails."""
        os.close(self.theirs)
        self._close_ours()

    def until(self, pattern: str) -> None:
        """Wait until the output contains the text."""

        def written() -> object:
            if self.process.poll() is not None:
                time.sleep(0.5)  # what it wrote last is on its way
            return re.search(pattern, self.text)

        wait_until(written, SECONDS, lambda: f"{pattern} in\n{self.text[-3000:]}", self.process, pause=0.1)

    def end(self) -> int:
        """Wait for the command. Returns its exit status."""
        status = self.process.wait(timeout=SECONDS)
        time.sleep(0.5)  # what it wrote last is on its way
        return status

    def _read(self) -> None:
        """Read all the time, since a terminal that nobody reads blocks its command."""
        decode = codecs.getincrementaldecoder("utf-8")("replace").decode
        with contextlib.suppress(OSError):
            while self.is_open:
                if select.select([self.ours], [], [], 0.1)[0]:
                    self.output += decode(os.read(self.ours, 65536))

    @property
    def text(self) -> str:
        """The output without control sequences. A drawing grows to megabytes, so only new output is searched."""
        output = self.output
        begun = re.search(r"\x1b[^A-Za-z]*$", output[self.read :])  # the rest of it is on its way
        end = self.read + begun.start() if begun else len(output)
        self.plain += re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", output[self.read : end])
        self.read = end
        return self.plain + output[end:]

    @property
    def is_clean(self) -> bool:
        """Whether the terminal is in its original state."""
        screen = self.output.rfind(LEAVE) > self.output.rfind(ENTER) > -1
        cursor = self.output.rfind(SHOW) > self.output.rfind(HIDE) > -1
        return screen and cursor and termios.tcgetattr(self.theirs) == self.before

    @property
    def shows_cursor(self) -> bool:
        return self.output.rfind(SHOW) >= self.output.rfind(HIDE)

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        if self.is_open:
            os.close(self.theirs)
            self._close_ours()

    def _close_ours(self) -> None:
        # A read under way holds the terminal open, and it would not hang up: the reader looks before it reads.
        self.is_open = False
        self.reader.join(timeout=5)
        os.close(self.ours)
