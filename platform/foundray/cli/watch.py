"""`watch`: a run on the terminal, live."""

from __future__ import annotations

import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

from foundray.cli.parsing import Verbs
from foundray.host.signals import exit_status


def add_to(verbs: Verbs) -> None:
    verbs.add("watch", _watch, "show a run on the terminal as it goes", "RUN", as_json=False, shows=True)


def _watch(options: Any) -> None:
    from foundray.runs.run import Run
    from foundray.runs.watching import watch

    with until_interrupted():
        watch(Run.open(options.target))


@contextmanager
def until_interrupted() -> Iterator[None]:
    """End without an error on Ctrl-C: it is how people leave a verb that shows something. Other signals set the exit status."""
    with suppress(KeyboardInterrupt):
        yield
    if (status := exit_status()) and status != 128 + signal.SIGINT:
        sys.exit(status)
