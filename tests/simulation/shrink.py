"""Makes a failing history as short as it can be: faults are dropped as long as it still fails."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from tests.simulation.histories import History


def shrunk(history: History, fails: Callable[[History], bool]) -> History:
    """The shortest history found that still `fails`."""
    while True:
        fewer = [replace(history, faults=(*history.faults[:i], *history.faults[i + 1 :])) for i in range(len(history.faults))]
        smaller = next(filter(fails, fewer), None)
        if smaller is None:
            return history
        history = smaller
