"""The process that feeds the trackers, and the driver's hold on it.

The driver starts it, and closes its standard input when the command has ended; so does the system if the driver is killed. The
process then sends the rest. Nothing is handed over but the run's location and its spec: records are read from storage.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from foundray.errors import InputError, RunFailed
from foundray.records.reader import Reader
from foundray.runs.goodput import ENDS
from foundray.runs.lock import is_held
from foundray.runs.run import Run
from foundray.spec import Spec, digest
from foundray.spec.loading import parse_spec
from foundray.storage import Store
from foundray.tracking.feed import Feed

LOCAL_SECONDS, REMOTE_SECONDS = 1.0, 5.0
"""Between two reads of the logs."""
END_SECONDS = 30.0
"""Limit for the end of a command to wait for trackers."""
NICE = 10
"""The workers come first."""


class Tracking:
    """The driver's side."""

    def __init__(self, run: Run, spec: Spec, report: Callable[[str], None]):
        self.report = report
        self.process = subprocess.Popen(
            [sys.executable, "-P", "-m", __name__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            start_new_session=True,  # Ctrl-C in a terminal is the driver's
            text=True,
        )
        self.reader = threading.Thread(target=self._relay, daemon=True)
        self.reader.start()
        with contextlib.suppress(OSError):  # it ended at once: `close` says so
            assert self.process.stdin
            print(json.dumps({"run": run.folder.url, "spec": spec.to_yaml()}), file=self.process.stdin, flush=True)

    def _relay(self) -> None:
        assert self.process.stdout
        for line in self.process.stdout:
            self.report(line.rstrip("\n"))

    def close(self, seconds: float = END_SECONDS) -> None:
        """Wait until the rest is sent, but no longer than this. The logs must be stored."""
        with contextlib.suppress(OSError):
            assert self.process.stdin
            self.process.stdin.close()
        try:
            status = self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            self.process.kill()
            status = self.process.wait()
        self.reader.join(1)
        if status:
            self.report("the trackers lack the last of the run; `foundray.track(run)` sends it later")


@contextlib.contextmanager
def tracked(run: Run, spec: Spec, report: Callable[[str], None]) -> Iterator[None]:
    """Feed the spec's trackers until the block ends, after which the logs must be stored."""
    tracking = Tracking(run, spec, report) if spec.trackers else None
    try:
        yield
    finally:
        if tracking:
            tracking.close()


def check_installed(spec: Spec) -> None:
    """Raise InputError if a tracker of the spec cannot be used here."""
    from importlib.util import find_spec

    for config in spec.trackers:
        package = config.build().package
        if package and find_spec(package) is None:
            raise InputError(
                f"the tracker {config.kind} needs the package {package}, which is not installed: "
                f"pip install 'foundray[{config.kind}]'"
            )


def main() -> int:
    """Run the process; its exit status is 1 if something could not be sent."""
    out = os.fdopen(os.dup(1), "w", buffering=1)
    with Path(os.devnull).open("w") as nowhere:  # trackers' packages print
        os.dup2(nowhere.fileno(), 1)
    os.nice(NICE)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    told = json.loads(sys.stdin.readline())
    run, spec = Run(Store.at(told["run"])), parse_spec(told["spec"], "the driver's spec")

    def say(line: str) -> None:
        with contextlib.suppress(OSError):  # the driver may be gone
            print(line, file=out)

    with _alone(run):
        return 0 if feed(run, spec, _until_closed(run), say) else 1


def feed(run: Run, spec: Spec, turns: Iterator[bool], say: Callable[[str], None]) -> bool:
    """Feed the spec's trackers once per turn, the last of which is True; return whether all was sent."""
    feeds = [Feed(run, spec, config, say) for config in spec.trackers]
    sent, state = True, "running"
    for last in turns:
        state = _state(run) if last else state
        done = [one.pump(state == "finished", retry_now=last) for one in feeds]
        sent = all(done)
    for one in feeds:
        one.end(state)
    return sent


def track(run: Run, spec: Spec, say: Callable[[str], None]) -> None:
    """Send what the spec's trackers lack of a run that no command runs. Raises InputError or RunFailed."""
    if not spec.trackers:
        raise InputError(f"the spec of {run.folder} has no trackers: name some, such as trackers: [wandb]")
    check_installed(spec)
    if is_held(run.folder):
        raise InputError(f"{run.folder} is running, and its command sends what is new to the trackers")
    with _alone(run):
        if not feed(run, spec, iter([True]), say):
            raise RunFailed("a tracker could not take all of the run; what it lacks can be sent later in the same way")


def _until_closed(run: Run) -> Iterator[bool]:
    """A turn every second or so, until standard input is closed."""
    pause, closed = (LOCAL_SECONDS if run.folder.is_local else REMOTE_SECONDS), False
    while not closed:
        closed = bool(select.select([sys.stdin], [], [], pause)[0])
        if closed:
            _end_within(END_SECONDS)
        yield closed


def _end_within(seconds: float) -> None:
    """End this process then, whatever a tracker waits for."""

    def end() -> None:
        time.sleep(seconds)
        os._exit(1)

    threading.Thread(target=end, daemon=True).start()


def _state(run: Run) -> str:
    """What the run is after the command: the last event's kind, if that ends a command."""
    last = ""
    with contextlib.suppress(Exception):
        for event in Reader(run.folder, "events").new():
            last = event["event"]
    return last if last in ENDS else "interrupted"


@contextlib.contextmanager
def _alone(run: Run) -> Iterator[None]:
    """Wait for the process of an earlier command on this machine, which may still send."""
    import fcntl

    place = Path(tempfile.gettempdir()) / f"foundray-trackers-{os.getuid()}-{digest(run.folder.url)[:16]}.lock"
    with place.open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


if __name__ == "__main__":
    status = main()
    sys.stdout.flush()
    sys.exit(status)
