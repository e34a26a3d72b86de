"""When a run ends early: a function of its evaluations by step alone, and so the same for any number of workers."""

from __future__ import annotations

import math
from collections.abc import Mapping

from foundray.spec import TrainConfig
from foundray.wording.words import plural


def stops_at(train: TrainConfig, losses: Mapping[int, float]) -> int | None:
    """The step after whose evaluation the run ends early; None if these validation losses, by step, do not end it.

    Only evaluations at multiples of `evaluate_every` count; a loss that is not finite is no improvement.
    """
    rule, best, waited = train.stop_early, math.inf, 0
    if rule is None:
        return None
    for step in sorted(losses):
        if step % train.evaluate_every:
            continue
        if losses[step] < best - rule.min_delta:
            best, waited = losses[step], 0
        else:
            waited += 1
        if waited == rule.patience:
            return step
    return None


def reason(train: TrainConfig, losses: Mapping[int, float], step: int) -> str:
    """Why the run ended at this step, for people."""
    assert train.stop_early
    known = {s: loss for s, loss in losses.items() if s <= step and s % train.evaluate_every == 0}
    best = min(known, key=lambda s: (known[s], s))
    return (
        f"train.stop_early: {plural(train.stop_early.patience, 'evaluation')} in a row without improvement; the best, "
        f"{known[best]:.4f}, is that of step {best:,}"
    )
