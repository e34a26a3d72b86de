"""How many trials there are, how long they are and by how much they are judged, for what a search may cost."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from foundray.errors import InputError
from foundray.spec import TuneConfig
from foundray.tuning.search.batches import Batches

FEWEST_STEPS = 10
"""Of a first rung, or of a ladder's shortest run, with the largest batch: tokens are then equal to within half a step, 5 %."""
JUDGED = 2**12, 2**16
"""Fewest and most units that a trial is judged by, where the spec does not say: three for four of its first rung's."""
LADDER_LENGTHS = (0.25, 0.5, 1.0)
LADDER_JUDGED = 2**14, 2**18
ONE_BATCH = Batches()
"""All trials have the spec's."""


@dataclass(frozen=True)
class Rungs:
    trials: int
    lengths: tuple[int, ...]
    """Steps until the end of each rung."""
    judged: int
    """Units of the validation split, at the end of each."""


@dataclass(frozen=True)
class Costs:
    """FLOPs of a proxy."""

    step: float
    judging: float
    """Of one unit."""
    units_per_step: int

    def first_rung(self, rungs: Rungs) -> float:
        return rungs.lengths[0] * self.step + rungs.judged * self.judging


def affordable(
    tuning: TuneConfig, trials: int, longest: int, costs: Costs, allowed: float, batches: Batches = ONE_BATCH
) -> Rungs:
    """As many trials as may be, and as long, at most `longest` steps. Raises InputError where not one rung can be paid."""
    least = trials if tuning.sampler == "grid" else 1
    fewest = _fewest(batches)
    if tuning.proxy.steps and batches != ONE_BATCH:
        _check_first_rung(tuning, fewest, batches)
    for count in range(trials, least - 1, -1):
        rungs = _rungs(tuning, count, longest, costs, allowed * _whole_steps(batches))
        if count * costs.first_rung(rungs) <= allowed and (tuning.proxy.steps or rungs.lengths[0] >= fewest):
            return replace(rungs, lengths=tuple(map(batches.aligned, rungs.lengths)))
    if not tuning.proxy.steps and rungs.lengths[-1] >= longest:  # it is not for want of FLOPs
        largest = "" if fewest == FEWEST_STEPS else f", since the largest batch is {batches.largest:.3g} times the spec's"
        raise InputError(
            f"tune.rungs: {tuning.rungs} rungs of trials as long as the run (train.steps: {longest:,}) make a first one of "
            f"{rungs.lengths[0]} step(s), and {fewest} are needed{largest}: set fewer tune.rungs, or tune.proxy.steps"
        )
    shortest = Rungs(1, (max(rungs.lengths[0], 1 if tuning.proxy.steps else fewest),), rungs.judged)
    needed = f"one rung of one trial takes {costs.first_rung(shortest):.3g}"
    if least > 1:
        needed = f"one rung of each of {least} trials takes {least * costs.first_rung(shortest):.3g}"
    raise InputError(
        f"tune.budget: {tuning.budget:g} of the full run leaves {allowed:.3g} FLOPs for the search, and {needed}: raise "
        "tune.budget, or make tune.proxy smaller"
    )


def _fewest(batches: Batches) -> int:
    """Steps of the spec that a first rung has at least."""
    return math.ceil(FEWEST_STEPS * batches.largest)


def _whole_steps(batches: Batches) -> float:
    """Share of the FLOPs to plan for: trials of some batches have to be half a step longer than planned."""
    return 1.0 if batches.common else 1 - 0.5 / FEWEST_STEPS


def _check_first_rung(tuning: TuneConfig, fewest: int, batches: Batches) -> None:
    """Raises InputError for trials so short that batches would not compare at equal tokens."""
    first = round((tuning.proxy.steps or 0) * tuning.reduction ** (1 - tuning.rungs))
    if first < fewest:
        raise InputError(
            f"tune.proxy.steps: {tuning.proxy.steps:,} steps in {tuning.rungs} rungs make a first one of {first}, and batches "
            f"of up to {batches.largest:.3g} times the spec's compare at equal tokens after {fewest} or more: set "
            f"{fewest * tuning.reduction ** (tuning.rungs - 1):,} steps, or fewer tune.rungs"
        )


def _rungs(tuning: TuneConfig, trials: int, longest: int, costs: Costs, allowed: float) -> Rungs:
    """With this many trials."""
    ends = [0.0, *(tuning.reduction**-ahead for ahead in reversed(range(tuning.rungs)))]
    arriving = arrivals(trials, tuning.rungs, tuning.reduction)
    whole = sum(count * (end - begin) for count, begin, end in zip(arriving, ends, ends[1:], strict=False))
    part = 0.75 * ends[1] * costs.units_per_step
    steps = tuning.proxy.steps or allowed / (whole * costs.step + part * sum(arriving) * costs.judging)
    judged = tuning.judged_tokens or round(min(max(part * min(steps, longest), JUDGED[0]), JUDGED[1]))
    if not tuning.proxy.steps:
        steps = min(longest, (allowed - sum(arriving) * judged * costs.judging) / (whole * costs.step))
    return Rungs(trials, tuple(max(1, round(steps * end)) for end in ends[1:]), judged)


def arrivals(trials: int, rungs: int, reduction: int) -> list[float]:
    """How many trials come to the end of each rung, about.

    ASHA lets the j-th trial go on that comes to a rung's end if it is among the best 1 / `reduction` of those before: that
    is the first one always, and another with a chance of about 1/r + (1 - 1/r)/j.
    """
    arriving = [float(trials)]
    while len(arriving) < rungs:
        harmonic = math.log(arriving[-1]) + 0.577 if arriving[-1] > 1 else 1.0
        arriving.append(arriving[-1] / reduction + (1 - 1 / reduction) * harmonic)
    return arriving


def ladder(longest: int, costs: Costs, allowed: float, batches: Batches = ONE_BATCH) -> Rungs | None:
    """How long a ladder's runs are; `costs` are of a step of every size together. None where it cannot be paid."""
    allowed *= _whole_steps(batches)
    part = 0.5 * costs.units_per_step
    each, times = sum(LADDER_LENGTHS), len(LADDER_LENGTHS)
    steps = allowed / (each * costs.step + times * part * costs.judging)
    judged = round(min(max(part * min(steps, longest), LADDER_JUDGED[0]), LADDER_JUDGED[1]))
    steps = min(longest, (allowed - times * judged * costs.judging) / (each * costs.step))
    lengths = tuple(batches.aligned(round(steps * length)) for length in LADDER_LENGTHS)
    return Rungs(times, lengths, judged) if lengths[0] >= _fewest(batches) else None
