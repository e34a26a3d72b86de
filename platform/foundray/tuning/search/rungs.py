"""The number of trials, their length and their validation units, for a given FLOP budget."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

from foundray.errors import InputError
from foundray.spec import TuneConfig
from foundray.tuning.search.batches import Batches

FEWEST_STEPS = 10
"""Least steps of a first rung, or of a ladder's shortest run, with the largest batch: tokens then agree to half a step, 5 %."""
VALIDATION_UNITS = 2**12, 2**16
"""Fewest and most units that a trial is validated on if the spec does not say: three for four of its first rung's."""
LADDER_SHARES = (0.25, 0.5, 1.0)
LADDER_VALIDATION_UNITS = 2**14, 2**18
ONE_BATCH = Batches()
"""The batch size of the spec, for all trials."""


@dataclass(frozen=True)
class Rungs:
    trials: int
    lengths: tuple[int, ...]
    """Steps until the end of each rung."""
    validation_units: int
    """Units of the validation split that a trial is validated on at the end of each rung."""


@dataclass(frozen=True)
class Costs:
    """FLOPs of a proxy's parts."""

    step: float
    validation_unit: float
    """FLOPs to validate on one unit."""
    units_per_step: int

    def first_rung(self, rungs: Rungs) -> float:
        return rungs.lengths[0] * self.step + rungs.validation_units * self.validation_unit


def affordable(
    tuning: TuneConfig,
    trials: int,
    longest: int,
    costs: Costs,
    allowed: float,
    batches: Batches = ONE_BATCH,
    leaves: Callable[[float], float] | None = None,
) -> Rungs:
    """As many trials as the budget pays for, as long as possible, at most `longest` steps.

    `leaves` gives the FLOPs that another `tune.budget` would leave for the search; by default they are in proportion. Raises
    InputError if the budget does not pay for one rung; it names the smallest that would.
    """
    least, fewest = _least(tuning, trials), _fewest(batches)
    if tuning.proxy.steps and batches != ONE_BATCH:
        _check_first_rung(tuning, fewest, batches)
    if found := planned(tuning, trials, longest, costs, allowed, batches):
        return found
    # Nothing fits. If not even trials as long as the run would, FLOPs are not the reason: the rungs are too many.
    first = max(1, round(longest * tuning.reduction ** (1 - tuning.rungs)))
    if not tuning.proxy.steps and first < fewest:
        largest = "" if fewest == FEWEST_STEPS else f", since the largest batch is {batches.largest:.3g} times the spec's"
        raise InputError(
            f"tune.rungs: {tuning.rungs} rungs of trials as long as the run (train.steps: {longest:,}) make a first one of "
            f"{first} {'step' if first == 1 else 'steps'}, and {fewest} are needed{largest}: set fewer "
            "tune.rungs, or tune.proxy.steps"
        )
    leaves = leaves or (lambda budget: allowed * budget / tuning.budget)
    enough = smallest_budget(
        tuning.budget, lambda budget: planned(tuning, trials, longest, costs, leaves(budget), batches) is not None
    )
    needed = ""
    if enough:
        smallest = "one trial" if least == 1 else f"all {least} trials"
        needed = f", and a search of {smallest} takes about {leaves(enough):.3g}"
    raise InputError(
        f"tune.budget: {tuning.budget:g} of the full run leaves {allowed:.3g} FLOPs for the search{needed}: raise "
        f"tune.budget{f' to {enough:g}' if enough else ''}, or make tune.proxy smaller"
    )


def planned(
    tuning: TuneConfig, trials: int, longest: int, costs: Costs, allowed: float, batches: Batches = ONE_BATCH
) -> Rungs | None:
    """The trials that these FLOPs pay for; None if they do not pay for one rung.

    The full number of trials is tried first, then fewer, until their first rungs are affordable and long enough.
    """
    for count in range(trials, _least(tuning, trials) - 1, -1):
        rungs = _rungs(tuning, count, longest, costs, allowed * _whole_steps(batches))
        if count * costs.first_rung(rungs) <= allowed and (tuning.proxy.steps or rungs.lengths[0] >= _fewest(batches)):
            return replace(rungs, lengths=tuple(map(batches.aligned, rungs.lengths)))
    return None


def smallest_budget(above: float, does: Callable[[float], bool]) -> float | None:
    """The smallest number of two digits above another that does, or None; up to twelve more decades are tried."""
    decade = math.floor(math.log10(above)) - 1
    numbers = (float(f"{digits}e{power}") for power in range(decade, decade + 13) for digits in range(10, 100))
    return next((number for number in numbers if number > above and does(number)), None)


def _least(tuning: TuneConfig, trials: int) -> int:
    """Fewest trials that a search can have: a grid has all."""
    return trials if tuning.sampler == "grid" else 1


def _fewest(batches: Batches) -> int:
    """Least steps of the spec in a first rung."""
    return math.ceil(FEWEST_STEPS * batches.largest)


def _whole_steps(batches: Batches) -> float:
    """Share of the FLOPs to plan with: trials of some batch sizes must be half a step longer than planned."""
    return 1.0 if batches.common else 1 - 0.5 / FEWEST_STEPS


def _check_first_rung(tuning: TuneConfig, fewest: int, batches: Batches) -> None:
    """Raises InputError if trials are so short that batch sizes would not compare at equal tokens."""
    first = round((tuning.proxy.steps or 0) * tuning.reduction ** (1 - tuning.rungs))
    if first < fewest:
        raise InputError(
            f"tune.proxy.steps: {tuning.proxy.steps:,} steps in {tuning.rungs} rungs make a first one of {first}, and batches "
            f"of up to {batches.largest:.3g} times the spec's compare at equal tokens after {fewest} or more: set "
            f"{fewest * tuning.reduction ** (tuning.rungs - 1):,} steps, or fewer tune.rungs"
        )


def _rungs(tuning: TuneConfig, trials: int, longest: int, costs: Costs, allowed: float) -> Rungs:
    """Rungs of this many trials."""
    # Expected lengths of all trials together, in units of one trial's full length.
    ends = [0.0, *(tuning.reduction**-ahead for ahead in reversed(range(tuning.rungs)))]
    arriving = arrivals(trials, tuning.rungs, tuning.reduction)
    whole = sum(count * (end - begin) for count, begin, end in zip(arriving, ends, ends[1:], strict=False))
    # Solve for the steps twice: with validation units in proportion to the first rung, then with these clipped.
    part = 0.75 * ends[1] * costs.units_per_step
    steps = tuning.proxy.steps or allowed / (whole * costs.step + part * sum(arriving) * costs.validation_unit)
    units = tuning.judged_tokens or round(min(max(part * min(steps, longest), VALIDATION_UNITS[0]), VALIDATION_UNITS[1]))
    if not tuning.proxy.steps:
        steps = min(longest, (allowed - sum(arriving) * units * costs.validation_unit) / (whole * costs.step))
    return Rungs(trials, tuple(max(1, round(steps * end)) for end in ends[1:]), units)


def arrivals(trials: int, rungs: int, reduction: int) -> list[float]:
    """Expected number of trials that reach the end of each rung.

    ASHA promotes the j-th trial to reach a rung's end if it is among the best 1 / `reduction` of those before it: always the
    first one, and another with probability of about 1/r + (1 - 1/r)/j.
    """
    arriving = [float(trials)]
    while len(arriving) < rungs:
        harmonic = math.log(arriving[-1]) + 0.577 if arriving[-1] > 1 else 1.0
        arriving.append(arriving[-1] / reduction + (1 - 1 / reduction) * harmonic)
    return arriving


def ladder(longest: int, costs: Costs, allowed: float, batches: Batches = ONE_BATCH) -> Rungs | None:
    """Lengths of a ladder's runs; `costs` sum a step of every size. None if the budget does not pay for it."""
    allowed *= _whole_steps(batches)
    part = 0.5 * costs.units_per_step
    shares, runs = sum(LADDER_SHARES), len(LADDER_SHARES)
    steps = allowed / (shares * costs.step + runs * part * costs.validation_unit)
    units = round(min(max(part * min(steps, longest), LADDER_VALIDATION_UNITS[0]), LADDER_VALIDATION_UNITS[1]))
    steps = min(longest, (allowed - runs * units * costs.validation_unit) / (shares * costs.step))
    lengths = tuple(batches.aligned(round(steps * length)) for length in LADDER_SHARES)
    return Rungs(runs, lengths, units) if lengths[0] >= _fewest(batches) else None
