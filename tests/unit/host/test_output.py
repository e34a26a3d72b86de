"""Standard output and error that are gone, full or closed: which commands end, and which continue."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest

from foundray.host.output import Stream, Unwritable

FULL = Path("/dev/full")
FOUNDRAY = [sys.executable, "-m", "foundray"]
WORKS = """
import sys
from foundray.host import output
output.install()
for line in range(3):
    print("line", line, flush=True)
print("to the end", file=sys.stderr)
"""
needs_full = pytest.mark.skipif(not FULL.exists(), reason="no /dev/full here")


def shell(command: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run by bash, whose redirections are under test: $0 is this Python, and $1 and later are the arguments."""
    return subprocess.run(
        ["bash", "-o", "pipefail", "-c", command, sys.executable, *arguments], capture_output=True, text=True, timeout=60
    )


@needs_full
def test_work_continues_without_output_that_is_full_and_says_so_once() -> None:
    done = shell('"$0" -c "$1" > /dev/full', WORKS)
    assert (done.returncode, done.stdout) == (0, "")
    message = "foundray: standard output cannot be written (No space left on device); continuing without it"
    assert done.stderr.splitlines() == [message, "to the end"]


@pytest.mark.parametrize("redirection", ["| true", ">&-", "2>&-", ">&- 2>&-", "<&- >&- 2>&-", "> /dev/full 2>&1"])
def test_work_continues_whatever_happens_to_its_streams(redirection: str) -> None:
    done = shell(f'sleep 0.2 | "$0" -c "$1" {redirection}', WORKS)
    assert done.returncode == 0, done
    assert "Traceback" not in done.stderr and "Exception" not in done.stderr


def test_what_is_opened_does_not_take_the_place_of_a_closed_stream(tmp_path: Path) -> None:
    """Otherwise a library's messages to standard error would go into that file."""
    code = f"""
import os
from foundray.host import output
output.install()
opened = open({str(tmp_path / "data")!r}, "wb")
os.write(2, b"a library's complaint")
"""
    assert shell('"$0" -c "$1" 2>&-', code).returncode == 0
    assert (tmp_path / "data").read_bytes() == b""


@needs_full
@pytest.mark.parametrize(
    ("redirection", "message"),
    [
        ("> /dev/full", "foundray: standard output cannot be written: No space left on device\n"),
        (">&-", "foundray: standard output cannot be written: Bad file descriptor\n"),
        ("| true", ""),
    ],
)
def test_a_verb_that_shows_something_ends_if_it_cannot(redirection: str, message: str) -> None:
    done = shell(f'"$0" -m foundray schema {redirection}')
    assert (done.returncode, done.stderr) == (1, message)
    assert shell('"$0" -m foundray schema 2>&-').stdout


def test_bad_input_keeps_its_exit_status_without_standard_error() -> None:
    assert shell('"$0" -m foundray status /nowhere/at/all 2>&-').returncode == 2
    assert shell('"$0" -m foundray status /nowhere/at/all >&- 2>&-').returncode == 2


def limited(monkeypatch: pytest.MonkeyPatch, size: int) -> list[int]:
    """Simulate a disk with room for `size` more bytes. Returns the room, which a test may change."""
    write, room = os.write, [size]

    def onto_the_rest(to: int, content: memoryview) -> int:
        if not room[0]:
            raise OSError(errno.ENOSPC, "No space left on device")
        part = content[: room[0]]
        room[0] -= len(part)
        return write(to, part)

    monkeypatch.setattr(os, "write", onto_the_rest)
    return room


def test_lines_that_were_lost_are_counted_where_output_comes_back(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    number = os.open(tmp_path / "log", os.O_CREAT | os.O_WRONLY)
    stream, room = Stream(number), limited(monkeypatch, 4)
    for line in ("one", "two", "three"):
        print(line, file=stream, flush=True)
    assert stream.lost == 2
    room[0] = 1000
    print("four", file=stream)
    print("fünf …", file=stream)
    monkeypatch.undo()
    os.close(number)
    assert (tmp_path / "log").read_text() == "one\n(2 lines before this could not be written)\nfour\nfünf …\n"


def test_a_line_cut_short_is_not_joined_to_the_next(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    number = os.open(tmp_path / "log", os.O_CREAT | os.O_WRONLY)
    stream, room = Stream(number), limited(monkeypatch, 2)
    print("one", file=stream)
    room[0] = 1000
    print("two", file=stream)
    monkeypatch.undo()
    os.close(number)
    assert (tmp_path / "log").read_text() == "on\n(1 line before this could not be written)\ntwo\n"


def test_a_stream_writes_lines_at_once_and_the_rest_when_asked() -> None:
    readable, writable = os.pipe()
    stream = Stream(writable)
    stream.write("half")
    stream.write(" a line\nand")
    assert os.read(readable, 100) == b"half a line\nand"
    stream.write(" more")
    stream.flush()
    assert os.read(readable, 100) == b" more"
    stream.shows = True
    os.close(readable)
    with pytest.raises(Unwritable) as raised:
        print("nobody reads it", file=stream)
    assert raised.value.is_gone
    os.close(writable)


def test_a_slow_reader_of_a_stream_that_does_not_block_gets_all() -> None:
    """Node.js and ssh leave the streams that they pass on in this mode."""
    code = "import os; os.set_blocking(1, False)\nfrom foundray.host import output\noutput.install()\nprint('x' * 10**6)"
    done = shell('"$0" -c "$1" | (sleep 0.5; wc -c)', code)
    assert (done.returncode, done.stdout.strip()) == (0, "1000001"), done
