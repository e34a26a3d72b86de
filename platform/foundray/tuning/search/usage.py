"""How well a search used the machine: busy cores, and overhead per trial."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from foundray.tuning.search.trial import RungResult


@dataclass(frozen=True)
class Usage:
    busy: float
    """Share of the slots' time that their cores (or GPUs) spent in training steps and validation while trials started."""
    overhead_s: float
    """Seconds per trial outside training steps in that time: starting, validating, saving, waiting."""

    def __str__(self) -> str:
        return f"cores busy {self.busy:.0%} of the time, {self.overhead_s:.2f} s per trial outside training steps"


def usage(trials: Sequence[Sequence[RungResult]], slots: int) -> Usage | None:
    """Usage by the trials' rungs, in `slots` with their own cores; None if there were too few trials for a steady state."""
    fresh = [[rung for rung in rungs if not rung.replayed] for rungs in trials]
    starts = sorted(rungs[0].began for rungs in fresh if rungs)
    if len(starts) < 2 * slots + 1:
        return None
    # The steady state lasts from when all slots are filled until the last trial starts.
    first, last = starts[slots - 1], starts[-1]
    stepping = working = 0.0
    for rung in (rung for rungs in fresh for rung in rungs):
        overlap = max(0.0, min(rung.ended, last) - max(rung.began, first)) / max(rung.ended - rung.began, 1e-9)
        stepping += overlap * rung.stepping_s
        working += overlap * (rung.stepping_s + rung.judging_s)
    available = slots * (last - first)
    return Usage(working / available, (available - stepping) / (len(starts) - slots))
