"""One command at a time on a run."""

from __future__ import annotations

import errno
import json
import platform
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import psutil
import pytest
from pyarrow import fs

from foundray.errors import InputError
from foundray.host.processes import home, identity
from foundray.runs import lock as holding
from foundray.runs.claims import LOCK
from foundray.runs.lock import RunLock
from foundray.storage import Store
from foundray.testing.waiting import wait_until


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(holding, "BEAT_SECONDS", 0.05)
    monkeypatch.setattr(holding, "PATIENCE_SECONDS", 0.4)


def hold(folder: Path, said: list[str] | None = None) -> RunLock:
    return RunLock(Store.at(folder), (said if said is not None else []).append)


def other(folder: Path, **fields: object) -> None:
    record = {"token": "other", "beats": 1, "host": "elsewhere", "pid": 1, "process": "", "user": "ada", **fields}
    (folder / "holder.json").write_text(json.dumps(record))


def test_a_second_command_is_refused_with_the_holders_name(tmp_path: Path) -> None:
    with hold(tmp_path), pytest.raises(InputError, match=rf"is running: process {psutil.Process().pid} of .* holds it"):
        hold(tmp_path).__enter__()
    assert not (tmp_path / "holder.json").exists()
    with hold(tmp_path):
        pass


def test_a_holder_on_this_machine_that_died_holds_nothing(tmp_path: Path) -> None:
    process = subprocess.Popen([sys.executable, "-c", ""])
    known_as = identity(psutil.Process(process.pid))
    process.wait()

    said: list[str] = []
    for pid in (process.pid, psutil.Process().pid):  # the second: its number is another's now
        other(tmp_path, pid=pid, process=known_as, home=home())
        with hold(tmp_path, said):
            pass
    assert not said, "nothing had to be waited for"


@pytest.mark.parametrize("hours", [-3, 3])
def test_a_holder_outlives_a_clock_that_jumps(tmp_path: Path, hours: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernel moves the time of the boot along with the clock, and with that the time at which processes began."""
    boot = psutil.boot_time()
    with hold(tmp_path), pytest.raises(InputError, match="holds it"):
        # When a process began is computed with the private one, and a test cannot set the kernel's.
        monkeypatch.setattr("psutil._pslinux.boot_time", lambda: boot + hours * 3600.0)
        monkeypatch.setattr("psutil.boot_time", lambda: boot + hours * 3600.0)
        hold(tmp_path).__enter__()


def test_a_holder_elsewhere_is_believed_alive_while_its_counter_moves(tmp_path: Path) -> None:
    """Regardless of its clock."""
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


@pytest.mark.parametrize(
    "elsewhere",
    [{"home": "another-boot/pid:[4026531836]"}, {"home": f"{home().split('/')[0]}/pid:[1]"}, {}],
    ids=["another machine", "another container", "of an earlier version"],
)
def test_a_holder_of_the_same_host_name_is_not_taken_for_one_of_this_machine(tmp_path: Path, elsewhere: dict[str, str]) -> None:
    """Containers often share a host name; their processes cannot be seen from here."""
    like_here = {"host": platform.node(), "pid": 3_999_999, "process": "another-boot/7/12.00", **elsewhere}
    other(tmp_path, **like_here)
    beat = threading.Timer(0.2, lambda: other(tmp_path, beats=2, **like_here))
    beat.start()
    with pytest.raises(InputError, match="process 3999999 of ada"):
        hold(tmp_path).__enter__()
    beat.join()


def test_another_users_process_that_proc_does_not_show_is_not_taken_for_gone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With hidepid=2, /proc does not list it, and only the kernel's refusal of a signal shows that it lives."""

    def refused(*_: int) -> None:
        raise PermissionError

    monkeypatch.setattr("foundray.host.processes.os.kill", refused)
    hidden = {"home": home(), "pid": 3_999_999, "process": "its/own/name"}
    other(tmp_path, **hidden)
    beat = threading.Timer(0.2, lambda: other(tmp_path, beats=2, **hidden))
    beat.start()
    with pytest.raises(InputError, match="process 3999999 of ada"):
        hold(tmp_path).__enter__()
    beat.join()


def test_a_folder_that_can_be_locked_in_no_way_is_a_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: int) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr("foundray.runs.claims.fcntl.flock", refused)
    (tmp_path / LOCK).mkdir()
    with pytest.raises(InputError, match="Is a directory"):
        hold(tmp_path).__enter__()


COMMAND = """
import sys
from pyarrow import fs
from foundray.runs import lock as holder
from foundray.errors import InputError
from foundray.storage import Store
kind, root = sys.argv[1:]
files = fs.LocalFileSystem() if kind == "local" else fs.SubTreeFileSystem(root, fs.LocalFileSystem())
folder = Store(files, root + "/run" if kind == "local" else "run", "run")
print("ready", flush=True)
sys.stdin.readline()
try:
    with holder.RunLock(folder, print) as held:
        print("inside", flush=True)
        sys.stdin.readline()
        assert not held.taken
except InputError as error:
    print("refused" if "holds it" in str(error) else error)
"""


@pytest.mark.parametrize(
    "left", [None, {"home": home(), "pid": 3_999_999, "process": "gone"}], ids=["new", "left by a dead one"]
)
@pytest.mark.parametrize("kind", ["local", "without exclusive creation"])
def test_exactly_one_of_commands_started_together_enters(tmp_path: Path, kind: str, left: dict[str, object] | None) -> None:
    """The second filesystem has only the operations of object stores: put, list and delete."""
    if left:
        (tmp_path / "run").mkdir()
        other(tmp_path / "run", **left)
    arguments = [sys.executable, "-c", COMMAND, kind, str(tmp_path)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    commands: list[Any] = [subprocess.Popen(arguments, **pipes) for _ in range(4)]  # type: ignore[call-overload]
    assert [command.stdout.readline() for command in commands] == ["ready\n"] * 4
    for command in commands:
        command.stdin.write("enter\n")
        command.stdin.flush()
    assert sorted(command.stdout.readline() for command in commands) == ["inside\n", *["refused\n"] * 3]
    for command in commands:
        assert command.communicate("leave\n", timeout=60)[0] == ""
        assert command.returncode == 0
    assert list((tmp_path / "run").iterdir()) == [], "nobody left anything"


def test_a_claim_of_a_killed_command_blocks_nobody_for_ever(tmp_path: Path) -> None:
    """On an object store, this machine's claim is gone at once, another machine's once it has not changed for a while."""
    files = fs.SubTreeFileSystem(str(tmp_path), fs.LocalFileSystem())
    folder = Store(files, "run", "run")
    for name, where in (("0", "another-boot/pid:[1]"), ("1", home())):
        (folder / f"entering-{name}.json").write_text(json.dumps({"pid": 3_999_999, "process": "gone", "home": where}))
    with RunLock(folder, print):
        assert [file.name for file in (tmp_path / "run").iterdir()] == ["holder.json"]


def test_a_damaged_file_blocks_nobody(tmp_path: Path) -> None:
    """As after a power failure."""
    (tmp_path / "holder.json").write_bytes(bytes(300))
    with hold(tmp_path):
        assert holding.is_held(Store.at(tmp_path))


def test_a_command_that_was_frozen_does_not_take_back_what_another_has_held_and_left(tmp_path: Path) -> None:
    with hold(tmp_path) as first:
        first.beaten -= 1.0
        (tmp_path / "holder.json").unlink()
        wait_until(lambda: first.taken, 5, "that the first notices")
    assert not list(tmp_path.iterdir())


def test_a_holder_that_is_replaced_notices(tmp_path: Path) -> None:
    with hold(tmp_path) as first:
        other(tmp_path)
        wait_until(lambda: first.taken, 5, "that the first notices")
    assert json.loads((tmp_path / "holder.json").read_text())["token"] == "other"


def test_the_holder_is_asked_to_stop_and_no_later_one_is(tmp_path: Path) -> None:
    with hold(tmp_path) as first:
        assert holding.is_held(Store.at(tmp_path))
        assert first.stopping == ""
        holding.ask_to_stop(Store.at(tmp_path))
        (asked,) = tmp_path.glob("stop.json")
        stale = asked.read_text()
        wait_until(lambda: first.stopping, 5, "that the holder hears of it")
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
        wait_until((tmp_path / "holder.json").is_file, 5, "that the lock is written again")
        assert holder.thread.is_alive()
