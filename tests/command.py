"""The command `foundray`, run as a user does."""

from __future__ import annotations

import contextlib
import io
import json
import os
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from tests.repository import REPOSITORY

from foundray.cli import main

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


IN_TURN = """
import contextlib, dataclasses, json, sys
from tests.command import foundray_here
from foundray.cluster.connect import connected

with connected() if "on one Ray" in sys.argv else contextlib.nullcontext():
    for arguments in json.loads(sys.stdin.read()):
        print(json.dumps(dataclasses.astuple(foundray_here(*arguments))), flush=True)
"""


def foundray_in_turn(*commands: tuple[object, ...], on_one_ray: bool = False) -> list[Done]:
    """Run commands one after the other in one process of their own: most of a short command is its imports."""
    given = json.dumps([[str(argument) for argument in command] for command in commands])
    path = os.pathsep.join(filter(None, [str(REPOSITORY), os.environ.get("PYTHONPATH")]))
    command = [sys.executable, "-c", IN_TURN, *(["on one Ray"] if on_one_ray else [])]
    done = subprocess.run(command, input=given, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": path})
    assert done.returncode == 0, done.stderr
    return [Done(*json.loads(line)) for line in done.stdout.splitlines()]


def foundray_here(*arguments: object, cwd: Path | None = None) -> Done:
    """Run a command in this process: without a start, and on the Ray that this process has, if it has one.

    For what a command says and does. What it is as a process, with its signals, its threads and its end, takes `foundray`.
    """
    out, err = io.StringIO(), io.StringIO()
    status = 0
    with contextlib.chdir(cwd or Path.cwd()), contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            main([str(argument) for argument in arguments])
        except SystemExit as end:
            status = int(end.code or 0)
    return Done(status, out.getvalue(), err.getvalue())
