"""A state in workers' memories is taken over by a group, whatever the teams of the one that made it."""

from __future__ import annotations

import weakref

import pytest
from tests.unit.objectives.specs import SPECS
from torch import Tensor

from foundray.spec import Spec
from foundray.testing.groups import run_group
from foundray.testing.specs import make_spec
from foundray.testing.trainers import make_team_trainer, make_trainer, micro_batch, train_steps
from foundray.training.checkpoints.checkpoint import weights_sha256
from foundray.training.collectives.group import Group
from foundray.training.elastic.replicas import Replicas
from foundray.training.elastic.restore import restore
from foundray.training.protocol.states import StateShard, newest_complete
from foundray.training.step.trainer import Trainer

WORKERS = 4


def trainer_of(spec: Spec, group: Group, team: int) -> Trainer:
    return make_trainer(spec, group) if team == 1 else make_team_trainer(spec, group, team)


def advance(trainer: Trainer, group: Group, first: int, count: int) -> None:
    per_step = trainer.spec.train.micro_batches
    for step in range(first, first + count):
        mine = range(step * per_step + group.rank, (step + 1) * per_step, group.world)
        trainer.step(step, [(position, micro_batch(trainer.spec, position)) for position in mine])


def moved(group: Group, spec: Spec, before: int, after: int) -> str:
    """Two steps in teams of one size, and two in teams of another, with the state of the first in between."""
    trainer = trainer_of(spec, group, before)
    advance(trainer, group, 0, 2)
    # Each worker keeps its shard; who is asked knows which there are.
    replicas: Replicas[dict[str, Tensor]] = Replicas()
    own = StateShard(2, 1, trainer.numbers.start, trainer.numbers.stop, team=before)
    replicas.keep(own, trainer.state_shard(), own=True)
    places = group.share((own.start, own.stop))
    held = {rank: [StateShard(2, 1, *place, team=before)] for rank, place in enumerate(places)}
    source = newest_complete(held, trainer.layout.blocks)
    assert source, held
    # Another group of the same workers starts from it, and holds nothing of the last one.
    if before == after:
        old = weakref.ref(trainer.buffer)
        trainer.take_part(group)
        assert before == 1 or old() is None
    else:
        trainer = trainer_of(spec, group, after)
    assert restore(trainer, group, source, replicas) == 2
    trainer.updates = 2
    advance(trainer, group, 2, 2)
    return weights_sha256(trainer.weights())


@pytest.mark.parametrize(("before", "after"), [(1, 2), (2, 1), (2, 4), (4, 2), (2, 2)])
def test_any_teams_take_over_from_any(before: int, after: int) -> None:
    spec = make_spec(optimizer__kind="adamw8bit")
    assert set(run_group(WORKERS, moved, spec, before, after)) == {train_steps(Group(), spec, 4)[0]}


def test_a_teacher_moves_with_the_state() -> None:
    spec = SPECS["joint_embedding"]
    assert set(run_group(WORKERS, moved, spec, 2, 4)) == {train_steps(Group(), spec, 4)[0]}
