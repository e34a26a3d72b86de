"""What a plan says of the teams on a fleet: what each worker holds, what would fit, and which workers would wait."""

from __future__ import annotations

from typing import TYPE_CHECKING

from foundray.host.gpu_memory import FULL
from foundray.wording.words import plural, size

if TYPE_CHECKING:
    from foundray.planning.cost import Estimate


def of_teams(one: Estimate, micro_batches: int) -> list[tuple[str, str]]:
    """Names of facts and their sentences, for a step of `micro_batches` micro-batches; none if there is nothing to say."""
    found, label, left = list[tuple[str, str]](), one.fleet.label, one.fleet.count - one.workers
    if one.fits in ("too large", "too few"):
        found.append((one.fits, _too_small(one)))
    elif one.team > 1:
        teams = f"{plural(one.workers // one.team, 'team')} of {one.team}"
        found.append(("teams", f"{label}: {teams}, and each worker takes {size(_held(one))} of {size(one.fleet.memory)}"))
    if one.problem:
        found.append(("teams", one.problem))
    if left > 0:
        found.append(("left over", f"{left} of {label} {'waits' if left == 1 else 'wait'}, as a team has {one.team}"))
    if one.idle:
        have = "has" if one.idle == 1 else "have"
        of_step = f"a step has {plural(micro_batches, 'micro-batch', 'micro-batches')} (train.micro_batches)"
        found.append(("idle", f"{one.idle} of {label} {have} nothing to do: {of_step}"))
    elif one.wasted:
        turns = f"{one.wasted} of {micro_batches + one.wasted} turns are idle"
        why = f"train.micro_batches: {micro_batches} is no multiple of {one.workers}, the workers of all whole teams"
        found.append(("idle", f"{label}: {turns} per step, as {why}"))
    return found


def _held(one: Estimate) -> int:
    return (one.memory if one.fits == "fits" else one.recomputed).total


def _too_small(one: Estimate) -> str:
    """What is missing, and the least with which the model fits, in one sentence."""
    label, room = one.fleet.label, size(FULL * one.fleet.memory)
    of_team = f" of a team of {one.team}" if one.team > 1 else ""
    missing = f"{label}: a worker{of_team} takes {size(_held(one))}, and {room} can be planned with"
    if one.fits == "too few":
        return f"{label}: a team has {one.team} workers; take {one.team} {one.fleet.name}, or set scale.team to auto"
    would = [f"smallest that fits: {_smallest(one)}"] if one.smallest else []
    would += [f"what would fit on {label}: {one.remedy}"] if one.remedy else []
    return "; ".join([missing, *(would or ["no number of workers changes that, but a smaller model or micro-batch does"])])


def _smallest(one: Estimate) -> str:
    """`a team of 4 H100 with train.recompute: full, or of 8 without`."""
    least, name = one.smallest, one.fleet.name
    assert least
    first = f"{least.recomputing} {name}" if least.recomputing == 1 else f"a team of {least.recomputing} {name}"
    if least.plain == least.recomputing:
        return first
    return f"{first} with train.recompute: full" + (f", or a team of {least.plain} without" if least.plain else "")
