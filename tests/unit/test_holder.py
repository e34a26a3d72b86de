"""One command at a time on a run."""

from __future__ import annotations

import json
import platform
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from foundray import holder as holding
from foundray.errors import InputError
from foundray.holder import Holder
from foundray.processes import identity
from foundray.storage import Store


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(holding, "BEAT_SECONDS", 0.05)
    monkeypatch.setattr(holding, "PATIENCE_SECONDS", 0.4)


def hold(folder: Path, said: list[str] | None = None) -> Holder:
    return Holder(Store.at(folder), (said if said is not None else []).append)


def other(folder: Path, **fields: object) -> None:
    told = {"token": "other", "beats": 1, "host": "elsewhere", "pid": 1, "process": "", "user": "ada", **fields}
    (folder / "holder.json").write_text(json.dumps(told))


def test_a_second_command_is_refused_and_told_who_holds_the_run(tmp_path: Path) -> None:
    with hold(tmp_path), pytest.raises(InputError, match=rf"is running: process {psutil.Process().pid} of .* holds it"):
        hold(tmp_path).__enter__()
    assert not (tmp_path / "holder.json").exists()
    with hold(tmp_path):
        pass


def test_a_holder_on_this_machine_that_died_holds_nothing(tmp_path: Path) -> None:
    process = subprocess.Popen([sys.executable, "-c", ""])
    known_as = identity(psutil.Process(process.pid))
    process.wait()

    other(tmp_path, host=platform.node(), pid=process.pid, process=known_as)
    with hold(tmp_path):
        pass
    other(tmp_path, host=platform.node(), pid=psutil.Process().pid, process=known_as)  # its number is another's now
    with hold(tmp_path):
        pass


@pytest.mark.parametrize("hours", [-3, 3])
def test_a_holder_outlives_a_clock_that_jumps(tmp_path: Path, hours: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernel moves the time of the boot along with the clock, and with that the time at which processes began."""
    boot = psutil.boot_time()
    with hold(tmp_path), pytest.raises(InputError, match="holds it"):
        monkeypatch.setattr("psutil._pslinux.boot_time", lambda: boot + hours * 3600.0)
        monkeypatch.setattr("psutil.boot_time", lambda: boot + hours * 3600.0)
        hold(tmp_path).__enter__()


def test_a_holder_elsewhere_is_believed_alive_while_its_counter_moves(tmp_path: Path) -> None:
    """Whatever its clock says."""
    said: list[str] = []
    other(tmp_path)
    with hold(tmp_path, said):
        pass
    assert "waiting" in said[0]
    other(tmp_path)
    beat = threading.Timer(0.2, lambda: other(tmp_path, beats=2))
    beat.start()
    with pytest.raises(InputError, match="process 1 of ada on elsewhere holds it"):
        hold(tmp_path).__enter__()
    beat.join()


def test_whoever_is_replaced_notices(tmp_path: Path) -> None:
    with hold(tmp_path) as first:
        other(tmp_path)
        deadline = time.monotonic() + 5
        while not first.taken and time.monotonic() < deadline:
            time.sleep(0.02)
        assert first.taken
    assert json.loads((tmp_path / "holder.json").read_text())["token"] == "other"


def test_the_holder_is_asked_to_stop_and_no_later_one_is(tmp_path: Path) -> None:
    with hold(tmp_path) as first:
        assert holding.is_held(Store.at(tmp_path))
        assert first.stopping == ""
        holding.ask_to_stop(Store.at(tmp_path))
        (asked,) = tmp_path.glob("stop.json")
        stale = asked.read_text()
        assert wait_until(lambda: bool(first.stopping))
    assert not list(tmp_path.glob("*.json"))
    assert not holding.is_held(Store.at(tmp_path))
    (tmp_path / "stop.json").write_text(stale)  # as a holder that was killed would leave it
    with hold(tmp_path) as second:
        time.sleep(0.3)
        assert second.stopping == ""


def test_a_holder_lives_on_when_storage_is_away_for_a_while(tmp_path: Path) -> None:
    with hold(tmp_path) as holder:
        (tmp_path / "holder.json").rename(tmp_path / "away")
        (tmp_path / "holder.json").mkdir()  # neither to be read nor to be written
        time.sleep(0.3)
        (tmp_path / "holder.json").rmdir()
        assert wait_until((tmp_path / "holder.json").is_file)
        assert holder.thread.is_alive()


def wait_until(true: Callable[[], bool]) -> bool:
    deadline = time.monotonic() + 5
    while not true() and time.monotonic() < deadline:
        time.sleep(0.02)
    return true()
