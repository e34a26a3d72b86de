"""When a checkpoint pays: the Young/Daly interval, from measured costs and failures."""

from __future__ import annotations

import math
import time

PRIOR_SECONDS = 24 * 3600.0
"""Assumed time to the first fault: one day."""
FIRST_SECONDS = 60.0
"""Time to the first checkpoint, whose cost is still unknown."""


def young_daly(cost: float, between_failures: float) -> float:
    """Seconds between checkpoints that lose least time: sqrt(2 * cost * mean time between failures), by Young (1974).

    Daly (2006) adds terms that matter only if a checkpoint takes as long as the time between failures; the result is at most
    that time.
    """
    return min(math.sqrt(2 * cost * between_failures), between_failures) if cost > 0 else 0.0


class Interval:
    """Decides after which step a checkpoint pays."""

    def __init__(self) -> None:
        self.started = time.monotonic()
        self.cost: float | None = None
        """Seconds by which the last checkpoint delayed the steps."""
        self.begin(0)

    def begin(self, done: int) -> None:
        self.last, self.last_step = time.monotonic(), done

    def saved(self, done: int, cost: float) -> None:
        """Record a checkpoint after `done` steps that delayed them by `cost` seconds."""
        self.cost = cost
        self.begin(done)

    def pays(self, step: int, failures: int) -> bool:
        """Whether a checkpoint should follow `step`; `failures` is the number of groups broken since the start."""
        now = time.monotonic()
        between = (PRIOR_SECONDS + now - self.started) / (failures + 1)
        wanted = FIRST_SECONDS if self.cost is None else max(young_daly(self.cost, between), 10 * self.cost)
        return step > self.last_step and now - self.last >= wanted
