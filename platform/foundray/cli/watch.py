"""`watch`: a run on the terminal, live."""

from __future__ import annotations

import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any

from foundray.cli.parsing import Verbs, say_aside
from foundray.host.signals import exit_status

if TYPE_CHECKING:
    from foundray.runs.run import Run

WAIT_SECONDS = 60
"""Preparing data takes longer only if it is large; a wrong name should be reported soon."""
LOOK_SECONDS = 0.2


def add_to(verbs: Verbs) -> None:
    added = verbs.add("watch", _watch, "show a run on the terminal as it goes", "RUN", as_json=False, shows=True)
    about = f"how long to wait for a run that is about to begin (default: {WAIT_SECONDS})"
    added.add_argument("--wait", type=float, default=WAIT_SECONDS, metavar="SECONDS", help=about)


def _watch(options: Any) -> None:
    from foundray.runs.watching import watch

    with until_interrupted():
        watch(_begun(options.target, options.wait))


def _begun(location: str, seconds: float) -> Run:
    """The run, once it has begun: its folder is made when its data is prepared. Raises InputError after `seconds`."""
    from foundray.errors import InputError
    from foundray.runs.run import NotBegun, Run

    if not seconds >= 0:
        raise InputError(f"--wait {seconds}: it must be a number of seconds")
    end, announced = time.monotonic() + seconds, False
    while True:
        try:
            return Run.open(location)
        except NotBegun:
            if time.monotonic() >= end:
                raise
        if not announced:
            say_aside(f"waiting up to {seconds:g} s for {location} to begin; Ctrl-C ends")
            announced = True
        time.sleep(LOOK_SECONDS)


@contextmanager
def until_interrupted() -> Iterator[None]:
    """End without an error on Ctrl-C: it is how people leave a verb that shows something. Other signals set the exit status."""
    with suppress(KeyboardInterrupt):
        yield
    if (status := exit_status()) and status != 128 + signal.SIGINT:
        sys.exit(status)
