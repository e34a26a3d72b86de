"""Small trainers, the micro-batches that they learn from, and a few steps of training without Ray."""

from __future__ import annotations

import random

import numpy as np
import torch

from foundray.contract import Units
from foundray.data.stream.batch import packed
from foundray.model.model import Model, initialise
from foundray.runs.checkpoints import Checkpoint, Keep, completed, prune, state_of
from foundray.runs.lineage import Lineage
from foundray.spec import Spec
from foundray.storage import Store
from foundray.training.checkpoints.checkpoint import load, weights_sha256, write_shard
from foundray.training.checkpoints.unusable import Unusable
from foundray.training.checkpoints.written import CheckpointManifest, commit
from foundray.training.collectives.group import Group
from foundray.training.evaluating.evaluation import evaluate
from foundray.training.step.team.trainer import TeamTrainer
from foundray.training.step.trainer import Trainer

VOCABULARY = 40
"""Token ids of the synthetic micro-batches."""
FINGERPRINT = "f"
"""Of the checkpoints that `train_steps` writes and continues from."""


def make_model(spec: Spec, vocabulary: int = VOCABULARY) -> Model:
    """The spec's model, its weights not yet initialised."""
    return Model(spec.model, spec.objective.build(), spec.unit_shape(vocabulary))


def make_trainer(spec: Spec, group: Group | None = None, device: str = "cpu", vocabulary: int = VOCABULARY) -> Trainer:
    """A trainer with initial weights, of a worker of `group`, or of one that computes alone."""
    model = make_model(spec, vocabulary).to(device)
    initialise(model, spec.seed)
    return Trainer(spec, model, spec.objective.build(), group or Group())


def make_team_trainer(spec: Spec, group: Group, size: int, vocabulary: int = VOCABULARY) -> Trainer:
    """A trainer with initial weights, of a worker of `group`, whose teams have `size` workers."""
    with torch.device("meta"):
        model = make_model(spec, vocabulary)
    trainer = TeamTrainer(spec, model, spec.objective.build(), group, size)
    trainer.initialise()
    return trainer


def micro_batch(spec: Spec, position: int) -> bytes:
    """The packed micro-batch at `position` of the data order: the same units whenever and wherever it is asked for.

    Tokens form several documents, and every third micro-batch has a short sample. A modality's values are random.
    """
    rng = np.random.default_rng([spec.seed, position])
    if not (shape := spec.unit_shape(VOCABULARY)).classes:
        values = rng.standard_normal((spec.train.micro_batch_size, spec.model.context, shape.width)).astype(np.float32)
        objective = spec.objective.build()
        views = np.repeat(values, 2, 0) * rng.normal(1, 0.1, (2 * len(values), 1, 1)).astype(np.float32)
        return packed([objective.plan(Units(x, None, shape), rng) for x in (views if objective.couples else values)])
    lengths = [spec.objective.build().reads(spec.model.context) + 1] * spec.train.micro_batch_size
    if position % 3 == 0:
        lengths[-1] = 7
    samples = [rng.integers(0, VOCABULARY, n) * (rng.random(n) > 0.05) for n in lengths]
    units = [Units(x, np.cumsum(x == 0), shape) for x in samples]
    return packed([spec.objective.build().plan(one, rng) for one in units])


def load_latest(
    folder: Store, trainer: Trainer, fingerprint: str, wait_s: float = 0.0, lineage: Lineage = ()
) -> tuple[CheckpointManifest | None, list[str]]:
    """Load the newest usable checkpoint, as a coordinator would order it; returns its manifest, and why others were skipped."""
    skipped: list[str] = []
    for there in completed(folder, lineage):
        try:
            return load(folder, trainer, Checkpoint(*state_of(there)), (fingerprint,), wait_s), skipped
        except Unusable as error:
            skipped.append(str(error))
    return None, skipped


def train_steps(
    group: Group,
    spec: Spec,
    count: int,
    skew: int | None = None,
    storage: str | None = None,
    device: str = "cpu",
    team: int | None = None,
) -> tuple[str, list[float]]:
    """Train for `count` steps, then evaluate; gives the weights' SHA-256, and the losses and the evaluated tokens.

    Micro-batches are dealt to the group's workers in turn, or at random with `skew` as the seed. With `storage`, training
    continues from the newest checkpoint there and writes one at its end. With `team`, that number of workers hold one copy of
    the model between them. The result must not depend on the group.
    """
    trainer = make_team_trainer(spec, group, team) if team else make_trainer(spec, group, device)
    manifest = load_latest(Store.at(storage), trainer, FINGERPRINT)[0] if storage else None
    first = manifest.step if manifest else 0
    losses = []
    for step in range(first, first + count):
        owners = [i % group.world for i in range(spec.train.micro_batches)]
        if skew is not None:
            dealer = random.Random(f"{skew} {step}")
            owners = [dealer.randrange(group.world) for _ in owners]
        mine = [step * len(owners) + i for i, owner in enumerate(owners) if owner == group.rank]
        losses.append(trainer.step(step, [(position, micro_batch(spec, position)) for position in mine]).loss)
    if storage:
        save_checkpoint(Store.at(storage), trainer, first + count, FINGERPRINT, keep=3)
    evaluated = evaluate(trainer, [(i, micro_batch(spec, i)) for i in range(group.rank, 7, group.world)])
    return weights_sha256(trainer.weights()), [*losses, evaluated.loss, evaluated.tokens]


def save_checkpoint(folder: Store, trainer: Trainer, step: int, fingerprint: str, keep: int) -> None:
    """Write a checkpoint with the group's collectives: every worker its shard, and rank 0 makes it complete."""
    written = write_shard(folder, step, trainer.blocks, trainer.state_shard())
    shards = [file for files in trainer.group.share([file.model_dump() for file in written]) for file in files]
    if trainer.group.rank == 0:
        parameters = [(e.name, list(e.shape), e.first) for e in trainer.layout.entries]
        manifest = CheckpointManifest(
            step=step, fingerprint=fingerprint, optimizer=trainer.optimizer.kind, parameters=parameters, shards=shards,
            losses=list(trainer.spikes.window()),
        )  # fmt: skip
        commit(folder, manifest)
        prune(folder, Keep(keep))
    trainer.group.share(None)
