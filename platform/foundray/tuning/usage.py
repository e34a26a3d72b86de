"""How well a search used the machine: cores at work, and what a trial costs besides its training steps."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from foundray.tuning.trial import Rung


@dataclass(frozen=True)
class Usage:
    busy: float
    """Share of the slots' time that went into training steps and judging, while trials were still beginning."""
    overhead_s: float
    """Seconds a trial, outside of training steps: starting, judging, saving, waiting; in the same time."""

    def __str__(self) -> str:
        return f"{self.busy:.0%} of the slots' time at work, {self.overhead_s:.2f} s a trial outside of training steps"


def usage(trials: Sequence[Sequence[Rung]], slots: int) -> Usage | None:
    """Of the trials' rungs; None where there were too few trials for a steady state."""
    fresh = [[rung for rung in rungs if not rung.replayed] for rungs in trials]
    begun = sorted(rungs[0].began for rungs in fresh if rungs)
    if len(begun) < 2 * slots + 1:
        return None
    first, last = begun[slots - 1], begun[-1]
    stepping = working = 0.0
    for rung in (rung for rungs in fresh for rung in rungs):
        inside = max(0.0, min(rung.ended, last) - max(rung.began, first)) / max(rung.ended - rung.began, 1e-9)
        stepping += inside * rung.stepping_s
        working += inside * (rung.stepping_s + rung.judging_s)
    whole = slots * (last - first)
    return Usage(working / whole, (whole - stepping) / (len(begun) - slots))
