"""A real run on a real terminal: watched to its end, left with Ctrl-C, and told line by line."""

from __future__ import annotations

import contextlib
import fcntl
import os
import pty
import re
import struct
import subprocess
import sys
import termios
import threading
import time
from pathlib import Path

from tests.conftest import small_spec, write_spec
from tests.integration.conftest import FOUNDRAY

from foundray.records import EVENTS, Step
from foundray.run import Run
from foundray.storage import Store

SECONDS = 300
WATCH = "import sys; from foundray.run import Run; from foundray.watching import watch; watch(Run.open(sys.argv[1]))"
LOGS = "import sys; from foundray.run import Run; from foundray.logs import logs; logs(Run.open(sys.argv[1]), True, print)"
ENTER, LEAVE, HIDE, SHOW = "\x1b[?1049h", "\x1b[?1049l", "\x1b[?25l", "\x1b[?25h"
"""The other screen, and the cursor."""


class Terminal:
    """A command on a pseudo-terminal of 80 by 24."""

    def __init__(self, *command: object):
        self.ours, theirs = pty.openpty()
        fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
        self.before = termios.tcgetattr(theirs)
        environment = {key: value for key, value in os.environ.items() if key not in ("COLUMNS", "LINES", "NO_COLOR")}
        self.process = subprocess.Popen(
            list(map(str, command)),
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            env={**environment, "TERM": "xterm-256color"},
            preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
            start_new_session=True,
        )
        self.theirs, self.output = theirs, ""
        self.reader = threading.Thread(target=self._read, daemon=True)
        self.reader.start()

    def until(self, pattern: str) -> None:
        """Wait until the output has it."""
        deadline = time.monotonic() + SECONDS
        while not re.search(pattern, self.text):
            assert time.monotonic() < deadline and self.reader.is_alive(), self.text[-3000:]
            time.sleep(0.1)

    def end(self) -> int:
        """Wait for it; gives the exit status."""
        status = self.process.wait(timeout=SECONDS)
        time.sleep(0.5)  # what it wrote last is on its way
        return status

    def _read(self) -> None:
        """All the time, since a terminal that nobody reads holds its command up."""
        with contextlib.suppress(OSError):
            while content := os.read(self.ours, 65536):
                self.output += content.decode(errors="replace")

    @property
    def text(self) -> str:
        return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", self.output)

    @property
    def is_clean(self) -> bool:
        """Whether the terminal is as it was before."""
        screen = self.output.rfind(LEAVE) > self.output.rfind(ENTER) > -1
        cursor = self.output.rfind(SHOW) > self.output.rfind(HIDE) > -1
        return screen and cursor and termios.tcgetattr(self.theirs) == self.before

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        os.close(self.theirs)  # which ends the reader
        self.reader.join(timeout=5)
        os.close(self.ours)


def test_a_real_run(prose: Path, tmp_path: Path) -> None:
    spec = write_spec(tmp_path, small_spec(prose, tmp_path / "runs", train__steps=600, train__checkpoint_every=200))
    run = tmp_path / "runs" / "small"
    training = subprocess.Popen([FOUNDRAY, "train", spec], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    terminals: list[Terminal] = []
    telling: subprocess.Popen[str] | None = None
    try:
        deadline = time.monotonic() + SECONDS
        while not (run / "spec.yaml").exists():
            assert training.poll() is None and time.monotonic() < deadline
            time.sleep(0.1)
        terminals = [Terminal(sys.executable, "-c", WATCH, run) for _ in range(2)]
        telling = subprocess.Popen([sys.executable, "-c", LOGS, run], stdout=subprocess.PIPE, text=True)
        watched, left = terminals

        left.until(r"step [1-9]\d* of 600")
        os.write(left.ours, b"\x03")
        assert left.end() == 0
        assert left.is_clean
        assert "Traceback" not in left.text

        watched.until(r"step [1-9]\d* of 600")
        assert watched.end() == 0
        assert training.wait(timeout=SECONDS) == 0
        assert watched.is_clean
        stays = watched.output.rpartition(LEAVE)[2]
        assert "finished" in stays.splitlines()[0] + stays.splitlines()[1]
        assert "step 600 of 600" in watched.text
        steps = [int(step) for step in re.findall(r"step (\d+) of 600", watched.text)]
        assert steps == sorted(steps)
        assert len(set(steps)) > 2, "it moved"

        lines = telling.communicate(timeout=SECONDS)[0].splitlines()
        assert "a command begins" in lines[0]
        assert "finished at step 600" in lines[-1]
        assert any("step 600: validation loss" in line for line in lines)
        check_records(run)
    finally:
        for terminal in terminals:
            terminal.close()
        for process in (training, telling):
            if process and process.poll() is None:
                process.kill()
            if process:
                process.communicate()


def check_records(folder: Path) -> None:
    """Every line of a run's record is as docs/spec.md says."""
    run = Run(Store.at(folder))
    events, metrics = run.records("events.jsonl"), run.records("metrics.jsonl")
    for event in events:
        EVENTS[event["event"]].model_validate(event)
    for step in metrics:
        Step.model_validate(step)
    kinds = {"command", "places", "member_ready", "workers_started", "checkpoint", "evaluated", "finished"}
    assert kinds <= {event["event"] for event in events}
    assert len(metrics) == 600
