"""Stop a run from outside, at a step boundary and with a checkpoint, wherever it runs."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress

from foundray.errors import InputError
from foundray.runs.facts import Facts
from foundray.runs.lock import ask_to_stop, is_held
from foundray.runs.run import Run

BEAT_SECONDS = 0.5


def stop(run: Run, report: Callable[[str], None]) -> Facts:
    """Ask the command that runs the run to stop, and wait for it; do nothing if there is none.

    Raises InputError if storage does not answer.
    """
    if is_held(run.folder):
        ask_to_stop(run.folder)
        report("asked; it ends after the step under way, with a checkpoint")
        held = True
        while held:
            time.sleep(BEAT_SECONDS)
            with suppress(InputError):  # storage may be away for a while
                held = is_held(run.folder)
    return run.facts()
