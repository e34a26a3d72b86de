"""How a fleet holds the model: the size of its teams, and if it cannot, what would fit."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product

from foundray.host.gpu_memory import FULL
from foundray.planning.gpus import Fleet
from foundray.spec import Spec
from foundray.training.footprint import footprint
from foundray.training.team_size import in_teams_of, smallest_team

SIZES = tuple(2**power for power in range(11))
"""Sizes of teams that are tried for the smallest fleet. Machines hold 4 or 8 GPUs, and others would straddle them."""


@dataclass(frozen=True)
class Smallest:
    """The smallest fleet of a kind of GPU that holds the model: the workers of one team."""

    recomputing: int
    """With activations recomputed in the backward pass."""
    plain: int | None
    """Without; None if no team that is tried fits."""


def on_fleet(spec: Spec, classes: int, fleet: Fleet) -> Spec:
    """The spec with the size of teams that a run on this fleet would choose, for data with ids below `classes`."""
    if spec.scale.team != "auto" or not fleet.on_gpu:
        return spec
    return in_teams_of(spec, smallest_team(spec, classes, FULL * fleet.memory, fleet.count))


def smallest(spec: Spec, classes: int, fleet: Fleet) -> Smallest | None:
    """The smallest fleet of this kind of GPU that holds the model; None if no team of up to 1,024 does, and for CPUs."""
    if not fleet.on_gpu:  # more workers of one machine have less memory each
        return None

    def first(recompute: bool) -> int | None:
        def fits(team: int) -> bool:
            return footprint(in_teams_of(spec, team), classes, team, recompute=recompute).total <= FULL * fleet.memory

        return next(filter(fits, SIZES), None)

    recomputing = first(True)
    return None if recomputing is None else Smallest(recomputing, first(False))


def remedy(spec: Spec, classes: int, fleet: Fleet, workers: int) -> str:
    """The smallest change with which a worker fits: smaller micro-batches, a rounded sum, or both; empty if none is enough.

    `spec` has the fleet's teams, which have `workers` workers together.
    """
    size = spec.train.micro_batch_size
    least = 2 if spec.objective.build().couples else 1
    sizes = [size // 2**power for power in range(size.bit_length()) if size % 2**power == 0 and size // 2**power >= least]
    for exact, each in product([True, False] if spec.train.exact else [False], sizes):
        cut = {"exact": exact, "micro_batch_size": each, "micro_batches": spec.train.micro_batches * size // each}
        changed = spec.model_copy(update={"train": spec.train.model_copy(update=cut)})
        if footprint(changed, classes, workers, fleet.on_gpu, recompute=True).total <= FULL * fleet.memory:
            finer = f"train.micro_batch_size={each} with train.micro_batches={cut['micro_batches']}" if each < size else ""
            rounded = "train.exact=false" if exact != spec.train.exact else ""
            full = "" if spec.train.recompute in ("auto", "full") else "train.recompute=full"
            return " and ".join(filter(None, (finer, rounded, full)))
    return ""
