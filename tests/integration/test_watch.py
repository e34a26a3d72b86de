"""Watch a real run to its end, on a real terminal and line by line. test_terminal.py leaves it early."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
from tests.command import FOUNDRAY
from tests.terminal import LEAVE, Terminal

from foundray.testing.specs import small_spec, write_spec
from foundray.testing.waiting import wait_until

SECONDS = 300
RUN = "import sys; from foundray.runs.run import Run; run = Run.open(sys.argv[1]); "
WATCH = RUN + "from foundray.runs.watching import watch; watch(run)"
LOGS = RUN + "from foundray.runs.logs import logs; logs(run, True, print)"


@pytest.mark.thorough
def test_a_real_run(prose: Path, tmp_path: Path) -> None:
    spec = write_spec(tmp_path, small_spec(prose, tmp_path / "runs", train__steps=200, train__checkpoint_every=100))
    run = tmp_path / "runs" / "small"
    training = subprocess.Popen([FOUNDRAY, "train", spec], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    watched: Terminal | None = None
    telling: subprocess.Popen[str] | None = None
    try:
        wait_until((run / "spec.yaml").exists, SECONDS, "the run's folder", training)
        watched = Terminal(sys.executable, "-c", WATCH, run)
        telling = subprocess.Popen([sys.executable, "-c", LOGS, run], stdout=subprocess.PIPE, text=True)
        watched.until(r"step [1-9]\d* of 200")
        assert watched.end() == 0
        assert training.wait(timeout=SECONDS) == 0
        assert watched.is_clean
        stays = watched.output.rpartition(LEAVE)[2]
        assert "finished" in stays.splitlines()[0] + stays.splitlines()[1]
        assert "step 200 of 200" in watched.text
        steps = [int(step) for step in re.findall(r"step (\d+) of 200", watched.text)]
        assert steps == sorted(steps)
        assert len(set(steps)) > 2, "it moved"

        lines = telling.communicate(timeout=SECONDS)[0].splitlines()
        assert "a command begins" in lines[0]
        assert "finished at step 200" in lines[-1]
        assert any("step 200: validation loss" in line for line in lines)
    finally:
        if watched:
            watched.close()
        for process in (training, telling):
            if process and process.poll() is None:
                process.kill()
            if process:
                process.communicate()
