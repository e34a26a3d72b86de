"""How often a checkpoint pays: the Young/Daly interval, from what is measured."""

from __future__ import annotations

import math
import time

PRIOR_SECONDS = 24 * 3600.0
"""Before any fault is seen, one is expected in a day."""
FIRST_SECONDS = 60.0
"""Until a first checkpoint has shown what one costs."""


def young_daly(cost: float, between_failures: float) -> float:
    """Seconds between checkpoints that lose least: sqrt(2 * cost of one * mean time between failures), by Young (1974).

    Daly (2006) adds terms that matter only where a checkpoint takes as long as failures are apart; then it is that long.
    """
    return min(math.sqrt(2 * cost * between_failures), between_failures) if cost > 0 else 0.0


class Interval:
    """Decides after which step a checkpoint pays."""

    def __init__(self) -> None:
        self.started = time.monotonic()
        self.cost: float | None = None
        """Seconds that the last checkpoint held the steps up."""
        self.begin(0)

    def begin(self, done: int) -> None:
        self.last, self.last_step = time.monotonic(), done

    def saved(self, done: int, cost: float) -> None:
        """A checkpoint was taken after `done` steps, and held them up for `cost` seconds."""
        self.cost = cost
        self.begin(done)

    def pays(self, step: int, failures: int) -> bool:
        """Whether one should follow `step`, when so many groups have broken since the start."""
        now = time.monotonic()
        between = (PRIOR_SECONDS + now - self.started) / (failures + 1)
        wanted = FIRST_SECONDS if self.cost is None else max(young_daly(self.cost, between), 10 * self.cost)
        return step > self.last_step and now - self.last >= wanted
