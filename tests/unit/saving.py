"""Saving with the collectives of a group, as workers and coordinator do it together in a run."""

from foundray.runs.checkpoints import Keep, prune
from foundray.storage import Store
from foundray.training.checkpoints.checkpoint import write_shard
from foundray.training.checkpoints.written import CheckpointManifest, commit
from foundray.training.step.trainer import Trainer


def save(folder: Store, trainer: Trainer, step: int, fingerprint: str, keep: int) -> None:
    """Every worker writes its shard; rank 0 makes the checkpoint complete."""
    shards = trainer.group.share(write_shard(folder, step, trainer.blocks, trainer.state_shard()).model_dump())
    if trainer.group.rank == 0:
        parameters = [(e.name, list(e.shape), e.first) for e in trainer.layout.entries]
        kind = trainer.optimizer.kind
        commit(
            folder, CheckpointManifest(step=step, fingerprint=fingerprint, optimizer=kind, parameters=parameters, shards=shards)
        )
        prune(folder, Keep(keep))
    trainer.group.share(None)
