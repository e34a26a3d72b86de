"""The size of teams where the spec leaves it open: the smallest with which the memory of the GPUs is enough."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping

from foundray.errors import InputError
from foundray.host.gpu_memory import BY_RAY, FULL
from foundray.spec import Spec
from foundray.wording.words import plural, size


def with_team(spec: Spec, classes: int, kinds: Collection[str], report: Callable[[str], None]) -> Spec:
    """The spec with a size of teams, for data with ids below `classes` (0 for values).

    `kinds` are Ray's names of the cluster's accelerators. Only sizes that divide the largest number of workers are tried, so
    that none is left over. Raises InputError if the spec asks for what teams cannot do.
    """
    if spec.scale.team != "auto" or (memory := _memory(spec, kinds)) is None:
        return spec
    if (team := smallest_team(spec, classes, memory, spec.scale.world[1])) == 1:
        return spec
    alone = size(needed_by(spec, classes, 1))
    needed = f"a worker that holds the whole model takes {alone}, and {size(memory)} can be planned with"
    if problem := spec.team_problem():
        raise InputError(f"{needed}, so teams of {team} would hold it; but {problem}")
    report(f"teams of {team}: {needed}")
    return in_teams_of(spec, team)


def smallest_team(spec: Spec, classes: int, memory: float, most: int) -> int:
    """The smallest size of teams whose members need at most `memory` bytes of a GPU each, of the sizes that divide `most`.

    `most` if none is enough. One team alone has to fit, because a run continues with one.
    """
    sizes = (count for count in range(1, most + 1) if most % count == 0)
    return next((count for count in sizes if needed_by(spec, classes, count) <= memory), most)


def needed_by(spec: Spec, classes: int, team: int) -> int:
    """Bytes of a GPU that each worker of a lone team needs; activations are recomputed if the spec allows it."""
    from foundray.training.footprint import footprint

    return footprint(in_teams_of(spec, team), classes, team, recompute=spec.train.recompute == "auto").total


def in_teams_of(spec: Spec, team: int) -> Spec:
    """The spec with teams of this size."""
    return spec.model_copy(update={"scale": spec.scale.model_copy(update={"team": team})})


def check_room(spec: Spec, workers: Mapping[str, tuple[int, int]]) -> None:
    """Raise InputError if the most `workers` of all pools make no group of whole teams: the run would wait in vain."""
    there, fewest = sum(most for _, most in workers.values()), spec.scale.groups[0]
    if there < fewest:
        raise InputError(
            f"scale.team: the smallest group has {plural(fewest, 'worker')}, in teams of {spec.scale.team_size}, and there is "
            f"room for {there}: set scale.team to at most {max(1, there)}, or use a machine or cluster with more room"
        )


def _memory(spec: Spec, kinds: Collection[str]) -> float | None:
    """Bytes that a worker may use in any pool; None if one computes on CPUs, or on GPUs whose kind is not known."""
    found = []
    for pool in spec.scale.all_pools.values():
        named = [pool.accelerator] if pool.accelerator else list(kinds)
        if not (share := pool.resources.get("GPU")) or not named or not all(kind in BY_RAY for kind in named):
            return None
        found.append(min(1.0, share) * min(BY_RAY[kind] for kind in named))
    return FULL * min(found)
