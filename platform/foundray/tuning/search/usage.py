"""How well a search used the machine: cores at work, and what a trial costs besides its training steps."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from foundray.tuning.search.trial import Rung


@dataclass(frozen=True)
class Usage:
    busy: float
    """Share of the places' time that their cores (or GPUs) spent in training steps and judging, while trials were beginning."""
    overhead_s: float
    """Seconds a trial, outside of training steps: starting, judging, saving, waiting; in the same time."""

    def __str__(self) -> str:
        return f"{self.busy:.0%} of the cores' time at work, {self.overhead_s:.2f} s a trial outside of training steps"


def usage(trials: Sequence[Sequence[Rung]], places: int) -> Usage | None:
    """Of the trials' rungs, of which `places` have cores of their own; None where there were too few for a steady state."""
    fresh = [[rung for rung in rungs if not rung.replayed] for rungs in trials]
    begun = sorted(rungs[0].began for rungs in fresh if rungs)
    if len(begun) < 2 * places + 1:
        return None
    first, last = begun[places - 1], begun[-1]
    stepping = working = 0.0
    for rung in (rung for rungs in fresh for rung in rungs):
        inside = max(0.0, min(rung.ended, last) - max(rung.began, first)) / max(rung.ended - rung.began, 1e-9)
        stepping += inside * rung.stepping_s
        working += inside * (rung.stepping_s + rung.judging_s)
    whole = places * (last - first)
    return Usage(working / whole, (whole - stepping) / (len(begun) - places))
