"""How a first, a second and a third signal end a command."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from tests.terminal import Terminal

from foundray.host import signals
from foundray.host.signals import heeded
from foundray.testing.runs import run_with_checkpoint

RUN = """
import signal, sys, time
from foundray.host import output, signals
output.install()
{before}
asked = []
with signals.heeded(exits=True):
    try:
        with signals.heeded(asked.append):
            print("begun", flush=True)
            end = time.monotonic() + {seconds}
            while time.monotonic() < end and not (asked and {soft}):
                time.sleep(0.02)
        print("done", *asked, flush=True)
    except KeyboardInterrupt:
        print("interrupted", flush=True)
        time.sleep({closing})
        print("closed", flush=True)
        sys.exit(signals.exit_status())
    finally:
        print("cleaned up", flush=True)
"""


@pytest.fixture(autouse=True)
def _heard() -> Iterator[None]:
    """Restore signals as in a terminal, whatever the tests run under: `nohup` and background jobs of shells ignore some."""
    usual = {signal.SIGINT: signal.default_int_handler, signal.SIGHUP: signal.SIG_DFL, signal.SIGTERM: signal.SIG_DFL}
    before = {number: signal.signal(number, handler) for number, handler in usual.items()}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@contextmanager
def begun(before: str = "", seconds: float = 60, soft: bool = False, closing: float = 0) -> Iterator[subprocess.Popen[str]]:
    code = RUN.format(before=before, seconds=seconds, soft=soft, closing=closing)
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen([sys.executable, "-c", code], text=True, **pipes) as process:  # type: ignore[call-overload]
        try:
            assert process.stdout.readline() == "begun\n"
            yield process
        finally:
            process.kill()


def send(process: subprocess.Popen[str], *numbers: int) -> None:
    """Send signals, far enough apart to count separately."""
    for number in numbers:
        process.send_signal(number)
        time.sleep(signals.AGAIN_SECONDS + 0.2)


@pytest.mark.parametrize(
    ("number", "described"),
    [(signal.SIGINT, "Ctrl-C"), (signal.SIGTERM, "SIGTERM"), (signal.SIGHUP, "a closed terminal")],
)
def test_the_first_signal_lets_the_work_end(number: signal.Signals, described: str) -> None:
    with begun(soft=True) as process:
        send(process, number)
        out, err = process.communicate(timeout=30)
    assert (process.returncode, out) == (0, f"done {number.name}\ncleaned up\n")
    assert err == f"foundray: {described}: ending after the current step, with a checkpoint; press again to end at once\n"


def test_the_second_ends_it_cleanly_and_is_named() -> None:
    with begun() as process:
        send(process, signal.SIGTERM, signal.SIGINT)
        out, _ = process.communicate(timeout=30)
    assert (process.returncode, out) == (130, "interrupted\nclosed\ncleaned up\n")


def test_the_third_ends_it_at_once() -> None:
    with begun(closing=60) as process:
        send(process, signal.SIGINT, signal.SIGINT)
        assert process.stderr is not None
        assert process.stderr.readline().endswith("press again to end at once\n")
        assert process.stderr.readline() == "foundray: ending; press again to end at once\n"
        send(process, signal.SIGINT)
        out, err = process.communicate(timeout=5)
    assert (process.returncode, out, err) == (130, "interrupted\n", "foundray: ended at once\n")


def test_an_end_that_hangs_is_cut_short() -> None:
    with begun(before="signals.QUICK_SECONDS = 0.5", closing=60) as process:
        send(process, signal.SIGINT, signal.SIGTERM)
        out, _ = process.communicate(timeout=10)
    assert (process.returncode, out) == (143, "interrupted\n")


HANGS = """
import sys, time
from pathlib import Path
from foundray.runs import following, watching
from foundray.host import signals
from foundray.runs.run import Run

def looks(run):
    yield next(following.looks(run))
    try:
        time.sleep(60)
    finally:
        time.sleep(60)

watching.looks, signals.QUICK_SECONDS = looks, 0.5
with signals.heeded(exits=True):
    watching.watch(Run.open(sys.argv[1]))
"""


def test_a_view_that_hangs_is_cut_short_and_the_terminal_is_as_before(tmp_path: Path) -> None:
    """As if storage did not answer."""
    terminal = Terminal(sys.executable, "-c", HANGS, run_with_checkpoint(tmp_path).folder.url)
    try:
        terminal.until("small")
        terminal.interrupt()
        assert (terminal.end(), terminal.is_clean) == (130, True)
    finally:
        terminal.close()


def test_the_same_signal_twice_at_once_is_one() -> None:
    """`timeout` sends its signal to the command and to its group; a closed terminal and a shell both send SIGHUP."""
    with begun(seconds=1.5) as process:
        process.send_signal(signal.SIGINT)
        time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        out, _ = process.communicate(timeout=30)
    assert out == "done SIGINT\ncleaned up\n"
    with begun(seconds=1.5) as process:
        send(process, signal.SIGHUP, signal.SIGHUP)
        out, _ = process.communicate(timeout=30)
    assert out == "done SIGHUP\ncleaned up\n"


def test_a_command_that_is_over_is_ended_without_a_traceback() -> None:
    """While the interpreter shuts down, which takes long with Ray."""
    before = "import atexit, time\natexit.register(lambda: (print('leaving'), time.sleep(60)))"
    command = [sys.executable, "-c", f"{before}\nfrom foundray.cli import main\nmain()", "schema"]
    with subprocess.Popen(command, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        while process.stdout.readline() != "leaving\n":
            assert process.poll() is None
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=30)
    assert (process.returncode, out, err) == (130, "", "")


def test_a_key_that_is_pressed_fast_is_heard_again() -> None:
    with pytest.raises(KeyboardInterrupt), heeded(lambda name: None):
        for _ in range(20):
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(signals.AGAIN_SECONDS / 3)


def test_what_is_ignored_stays_ignored() -> None:
    with begun(before="signal.signal(signal.SIGHUP, signal.SIG_IGN)", seconds=1) as process:
        send(process, signal.SIGHUP)
        out, err = process.communicate(timeout=30)
    assert (out, err) == ("done\ncleaned up\n", "")


def test_handlers_are_as_before_when_it_is_over() -> None:
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)]
    with heeded(), heeded(lambda name: None):
        signal.signal(signal.SIGTERM, signal.SIG_DFL)  # as a library may do
        signals.renew()
        assert signal.getsignal(signal.SIGTERM) not in (*before, signal.SIG_DFL)
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)] == before


def test_a_program_that_calls_us_is_interrupted_but_not_ended() -> None:
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt), heeded():
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(5)
        assert signals.exit_status() is None, "nothing is left of it for the next call"


def test_outside_the_main_thread_nothing_changes() -> None:
    seen = []

    def look() -> None:
        with heeded(lambda name: None):
            seen.append(signal.getsignal(signal.SIGINT))

    thread = threading.Thread(target=look)
    thread.start()
    thread.join()
    assert seen == [signal.getsignal(signal.SIGINT)]


def test_exit_statuses() -> None:
    assert [signals.exit_status(name) for name in ("SIGHUP", "SIGINT", "SIGTERM", "me on host")] == [129, 130, 143, None]


def test_leaving_a_job_says_that_it_continues(capsys: pytest.CaptureFixture[str]) -> None:
    from foundray.cli.submit import _job_continues
    from foundray.host.output import Unwritable

    with pytest.raises(SystemExit) as ended, _job_continues("the job continues"):
        raise Unwritable(BrokenPipeError())
    assert ended.value.code == 1, "its reader has gone"
    for number, status in ((signal.SIGINT, 130), (signal.SIGHUP, 129)):
        with heeded(), pytest.raises(SystemExit) as ended, _job_continues("the job continues"):
            os.kill(os.getpid(), number)
            time.sleep(5)
        assert ended.value.code == status
    assert capsys.readouterr().err == 3 * "foundray: the job continues\n"
