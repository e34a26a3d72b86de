"""A clock that stands still until a test advances it."""

from __future__ import annotations

import time
from collections.abc import Callable


class SimulatedClock:
    """In place of the `time` module's clocks; a sleep takes no time, and advances them.

    `install` replaces the functions for the whole process; what has imported one of them by name keeps it.
    """

    def __init__(self, now: float = 1_800_000_000.0):
        self._wall = now
        self._elapsed = 0.0

    def time(self) -> float:
        """Seconds since 1970, by the wall clock."""
        return self._wall

    def monotonic(self) -> float:
        """Seconds since the clock was made; unlike the wall clock, this never jumps."""
        return self._elapsed

    def sleep(self, seconds: float) -> None:
        """Advance the clock instead of waiting."""
        self.advance(seconds)

    def advance(self, seconds: float) -> None:
        """Let time pass, on both clocks."""
        if seconds < 0:
            raise ValueError("time does not run backwards; `jump` sets the wall clock")
        self._wall += seconds
        self._elapsed += seconds

    def jump(self, seconds: float) -> None:
        """Set the wall clock forward or back, as an administrator does."""
        self._wall += seconds

    def install(self, replace: Callable[[object, str, object], object]) -> None:
        """Replace `time.time`, `time.monotonic` and `time.sleep`, by pytest's `monkeypatch.setattr` or the like."""
        for name in ("time", "monotonic", "sleep"):
            replace(time, name, getattr(self, name))
