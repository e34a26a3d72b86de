"""The size of teams where the spec leaves it open: the smallest with which the memory of the GPUs is enough."""

from __future__ import annotations

from collections.abc import Callable, Collection

from foundray.errors import InputError
from foundray.host.gpu_memory import BY_RAY, FULL
from foundray.spec import Spec
from foundray.wording.words import size


def with_team(spec: Spec, classes: int, kinds: Collection[str], report: Callable[[str], None]) -> Spec:
    """The spec with a size of teams, for data with ids below `classes` (0 for values).

    `kinds` are Ray's names of the cluster's accelerators. Only sizes that divide the largest number of workers are tried, so
    that none is left over. Raises InputError if the spec asks for what teams cannot do.
    """
    if spec.scale.team != "auto" or (memory := _memory(spec, kinds)) is None:
        return spec
    alone, most = _needed(spec, classes, 1), spec.scale.world[1]
    if alone <= memory:
        return spec
    sizes = [count for count in range(2, most + 1) if most % count == 0]
    if not sizes:
        return spec
    team = next((count for count in sizes if _needed(spec, classes, count) <= memory), sizes[-1])
    needed = f"a worker that holds the whole model takes {size(alone)}, and {size(memory)} can be planned with"
    if problem := spec.team_problem():
        raise InputError(f"{needed}, so teams of {team} would hold it; but {problem}")
    report(f"teams of {team}: {needed}")
    return _with(spec, team)


def _memory(spec: Spec, kinds: Collection[str]) -> float | None:
    """Bytes that a worker may use in any pool; None if one computes on CPUs, or on GPUs whose kind is not known."""
    found = []
    for pool in spec.scale.all_pools.values():
        named = [pool.accelerator] if pool.accelerator else list(kinds)
        if not (share := pool.resources.get("GPU")) or not named or not all(kind in BY_RAY for kind in named):
            return None
        found.append(min(1.0, share) * min(BY_RAY[kind] for kind in named))
    return FULL * min(found)


def _needed(spec: Spec, classes: int, team: int) -> int:
    from foundray.training.footprint import footprint

    return footprint(_with(spec, team), classes, team, recompute=spec.train.recompute == "auto").total


def _with(spec: Spec, team: int) -> Spec:
    return spec.model_copy(update={"scale": spec.scale.model_copy(update={"team": team})})
