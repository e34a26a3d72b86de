"""Teams of workers that hold one copy of the model give the bits of workers that hold all of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from tests.unit.objectives.specs import SPECS
from torch import Tensor

from foundray.model.model import Batch
from foundray.model.units import units
from foundray.spec import Spec
from foundray.spec.optimizers import KINDS
from foundray.testing.groups import run_group
from foundray.testing.specs import make_spec
from foundray.testing.trainers import make_model, make_team_trainer, make_trainer, micro_batch, train_steps
from foundray.training.checkpoints.checkpoint import weights_sha256
from foundray.training.collectives.group import Group
from foundray.training.step.flat import Layout
from foundray.training.step.guards import Corruption
from foundray.training.step.team.holding import holding

SHAPES = ((1, 2), (1, 3), (2, 2), (3, 1))
"""(teams, workers per team)"""
UNLIKE = ("next_token", "joint_embedding", "masked_pixel", "contrastive", "next_action")
"""Objectives that differ most: causal, with a teacher and a predictor, with a predictor alone, with couples, and of values."""


@pytest.mark.parametrize(
    "shapes", [SHAPES[2:3], pytest.param((*SHAPES[:2], *SHAPES[3:]), marks=pytest.mark.thorough)], ids=["2x2", "others"]
)
@pytest.mark.parametrize("kind", [pytest.param(kind, marks=() if kind in UNLIKE else pytest.mark.thorough) for kind in SPECS])
def test_every_objective_gives_the_same_bits(kind: str, shapes: tuple[tuple[int, int], ...]) -> None:
    spec = SPECS[kind]
    alone = train_steps(Group(), spec, 2, None)
    for teams, size in shapes:
        found = run_group(teams * size, train_steps, spec, 2, 3, None, "cpu", size)
        assert set(map(str, found)) == {str(alone)}, (teams, size)


@pytest.mark.parametrize("kind", KINDS)
def test_every_optimizer_gives_the_same_bits_and_any_team_continues_from_any_checkpoint(kind: str, tmp_path: Path) -> None:
    spec = make_spec(optimizer__kind=kind)
    alone = train_steps(Group(), spec, 4, None)
    for teams, size in SHAPES:
        run_group(teams * size, train_steps, spec, 1, None, str(tmp_path), "cpu", size)
    assert train_steps(Group(), spec, 0, None, str(tmp_path))[0] == alone[0]


def remote_steps(group: Group, spec: Spec, team: int) -> list[Any]:
    """As on two machines: no worker reaches another's memory, so units are gathered beside the computation."""
    group.exchange = None
    return list(train_steps(group, spec, 2, 3, None, "cpu", team))


def test_units_are_gathered_beside_the_computation_between_machines() -> None:
    spec = make_spec(train__micro_batches=3)
    alone = train_steps(Group(), spec, 2, None)
    assert set(map(str, run_group(2, remote_steps, spec, 2))) == {str(list(alone))}


class Poisoned:
    """An objective that multiplies the losses of the micro-batches at some positions."""

    def __init__(self, spec: Spec, factors: dict[int, float]):
        self.objective = spec.objective.build()
        self.factors = {key(micro_batch(spec, position)): factor for position, factor in factors.items()}

    def __getattr__(self, name: str) -> Any:
        return getattr(self.objective, name)

    def loss(self, answer: Tensor, target: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        loss, count = self.objective.loss(answer, target, mask)
        return loss * self.factors.get(tuple(target[0].tolist()), 1.0), count


def key(payload: bytes) -> tuple[int, ...]:
    [(target, _)] = Batch.load(payload, torch.device("cpu")).targets.values()
    assert target is not None
    return tuple(target[0].tolist())


def guarded_steps(group: Group, spec: Spec, factors: dict[int, float], team: int | None) -> tuple[str, list[tuple[int, ...]]]:
    """Do three steps with rechecks, some of whose losses are multiplied; the weights' SHA-256, and what was skipped."""
    trainer = make_team_trainer(spec, group, team) if team else make_trainer(spec, group)
    trainer.objective = Poisoned(spec, factors)  # type: ignore[assignment]
    trainer.read = lambda position: micro_batch(spec, position)
    results = []
    for first in range(0, 15, 5):
        mine = range(first + group.rank, first + 5, group.world)
        results.append(trainer.step(first // 5, [(position, micro_batch(spec, position)) for position in mine]))
    assert not any(result.unchecked for result in results)
    return weights_sha256(trainer.weights()), [result.skipped for result in results]


def test_micro_batches_that_are_not_finite_or_too_large_are_left_out_whole() -> None:
    """A loss that is not finite is found before the backward pass, a gradient that is too large after units were added."""
    spec = make_spec(guard__recheck_every=1)
    factors = {1: float("nan"), 7: 1e20, 8: 1e20, 13: 1e25}
    alone = guarded_steps(Group(), spec, factors, None)
    assert alone[1] == [(1,), (2, 3), (3,)]
    for teams, size in ((1, 2), (2, 2)):
        assert set(map(str, run_group(teams * size, guarded_steps, spec, factors, size))) == {str(alone)}, (teams, size)


def wrong_bits(group: Group, spec: Spec, wrong: int) -> list[int] | None:
    """One worker of two teams computes other losses; returns the workers that the recheck names."""
    trainer = make_team_trainer(spec, group, 2)
    if group.rank == wrong:
        trainer.objective = Poisoned(spec, dict.fromkeys(range(20), 1.0001))  # type: ignore[assignment]
    trainer.read = lambda position: micro_batch(spec, position)
    try:
        trainer.step(0, [(position, micro_batch(spec, position)) for position in range(group.rank, 5, group.world)])
    except Corruption as corruption:
        return corruption.ranks
    return None


def test_a_recheck_finds_the_member_that_computes_other_bits() -> None:
    spec = make_spec(guard__recheck_every=1)
    assert run_group(4, wrong_bits, spec, 2) == [[2]] * 4
    assert run_group(4, wrong_bits, spec, 9) == [None] * 4


def test_every_block_is_held_by_one_member() -> None:
    model = make_model(make_spec())
    layout = Layout.of(model)
    for size in (1, 2, 3, 5):
        held = [unit.held for member in range(size) for unit in holding(layout, units(model), size, member)]
        assert sorted(block for blocks in held for block in blocks) == list(range(layout.blocks))


class Scarce:
    """An objective for some of whose losses memory is too small."""

    def __init__(self, spec: Spec, lacking: set[int]):
        self.objective, self.lacking, self.losses = spec.objective.build(), lacking, 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self.objective, name)

    def loss(self, answer: Tensor, target: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        self.losses += 1
        if self.losses in self.lacking:
            raise torch.OutOfMemoryError("no memory")
        loss: tuple[Tensor, Tensor] = self.objective.loss(answer, target, mask)
        return loss


def scarce_steps(group: Group, spec: Spec, team: int, lacking: set[int]) -> tuple[str, str]:
    """Do two steps, while rank 1 lacks memory for some losses; the weights' SHA-256, and which activations are recomputed."""
    trainer = make_team_trainer(spec, group, team)
    if group.rank == 1:
        trainer.objective = Scarce(spec, lacking)  # type: ignore[assignment]
    for first in (0, 5):
        mine = range(first + group.rank, first + 5, group.world)
        trainer.step(first // 5, [(position, micro_batch(spec, position)) for position in mine])
    return weights_sha256(trainer.weights()), trainer.model.model.recompute


def test_a_member_without_memory_makes_all_compute_the_step_again() -> None:
    """With recomputed activations, and so with the same bits."""
    spec = make_spec()
    alone = train_steps(Group(), spec, 2)[0]
    assert run_group(4, scarce_steps, spec, 2, {2}) == [(alone, "full")] * 4
    assert run_group(2, scarce_steps, make_spec(train__recompute="full"), 2, set()) == [(alone, "full")] * 2
    with pytest.raises(Exception, match="memory is too small for a micro-batch"):
        run_group(2, scarce_steps, make_spec(train__recompute="none"), 2, {2})
