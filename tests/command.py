"""The command `foundray`, run as a user does."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

FOUNDRAY = str(Path(sys.executable).with_name("foundray"))


@dataclass
class Done:
    """What a command that has ended left: its exit status and output."""

    status: int
    out: str
    err: str

    @property
    def facts(self) -> dict[str, Any]:
        """The JSON object in the last line."""
        assert self.status == 0, self.err + self.out
        return json.loads(self.out.splitlines()[-1])

    @property
    def refusal(self) -> str:
        """The one sentence that reports bad input."""
        assert self.status == 2, (self.status, self.out, self.err)
        assert "Traceback" not in self.out + self.err
        assert len(self.err.strip().splitlines()) == 1, self.err
        return self.err


def foundray(*arguments: object, cwd: Path | None = None, timeout: float = 900) -> Done:
    """Run a command. If it does not end in time, show its output and every thread's stack."""
    command = [FOUNDRAY, *map(str, arguments)]
    pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, cwd=cwd, env={**os.environ, "PYTHONFAULTHANDLER": "1"}, **pipes) as process:
        try:
            out, err = process.communicate(timeout=timeout)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGABRT)
            out, err = process.communicate(timeout=30)
            pytest.fail(f"{' '.join(command)} has not ended after {timeout:.0f} s:\n{out[-4000:]}\n{err[-12000:]}")
    return Done(process.returncode, out, err)
