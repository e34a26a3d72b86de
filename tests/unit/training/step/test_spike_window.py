"""The spike guard's window is part of the state: a worker that resumes from a state judges like the worker that made it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from foundray.runs.checkpoints import MANIFEST, Checkpoint, place
from foundray.spec import Spec
from foundray.storage import Store
from foundray.testing.specs import make_spec
from foundray.testing.trainers import make_trainer, micro_batch
from foundray.training.checkpoints.checkpoint import load, write_shard
from foundray.training.collectives.group import Group
from foundray.training.elastic.committer import Committer
from foundray.training.protocol.messages import Commit, Written
from foundray.training.protocol.states import StateShard, newest_complete
from foundray.training.step.guards import WINDOW
from foundray.training.step.trainer import Trainer

STEPS = WINDOW + 6


def spec_with_guard() -> Spec:
    return make_spec(guard__spike=6, train__steps=2 * STEPS)


def advance(trainer: Trainer, first: int, count: int) -> None:
    per_step = trainer.spec.train.micro_batches
    for step in range(first, first + count):
        trainer.step(step, [(at, micro_batch(trainer.spec, at)) for at in range(step * per_step, (step + 1) * per_step)])


def committed(folder: Store, trainer: Trainer, step: int) -> dict[str, Any]:
    """The manifest that the driver writes from a worker's report."""
    shards = write_shard(folder, step, trainer.blocks, trainer.state_shard())
    written = Written(1, step, "", shards, 0.1, trainer.spikes.window())
    parameters = [(e.name, list(e.shape), e.first) for e in trainer.layout.entries]
    committer = Committer(trainer.spec, folder, lambda *_, **__: None)
    committer.write(Commit(1, Checkpoint(step, ""), (written,)), parameters, [])
    committer.thread.shutdown(wait=True)
    manifest: dict[str, Any] = json.loads((place(folder, step) / MANIFEST).read_bytes())
    return manifest


def test_a_checkpoint_holds_the_window_however_far_back_it_lies(tmp_path: Path) -> None:
    trainer, folder = make_trainer(spec_with_guard(), Group()), Store.at(tmp_path)
    advance(trainer, 0, STEPS)
    window = trainer.spikes.window()
    assert [step for step, _ in window] == list(range(STEPS - WINDOW + 1, STEPS + 1))
    assert committed(folder, trainer, STEPS)["losses"] == [list(one) for one in window]
    advance(trainer, STEPS, 3)

    again = make_trainer(spec_with_guard(), Group())
    restored = load(folder, again, Checkpoint(STEPS, ""), (trainer.spec.fingerprint(),))
    assert restored.losses is not None
    again.spikes.restore(restored.losses, restored.step)
    assert again.spikes.window() == window
    advance(again, STEPS, 3)
    assert again.spikes.window() == trainer.spikes.window()
    assert again.spikes.is_spike(9.0)
    assert not make_trainer(spec_with_guard(), Group()).spikes.is_spike(9.0), "without a window nothing is a spike"


def test_a_checkpoint_from_before_has_none(tmp_path: Path) -> None:
    trainer, folder = make_trainer(spec_with_guard(), Group()), Store.at(tmp_path)
    advance(trainer, 0, 2)
    old = committed(folder, trainer, 2)
    del old["losses"]
    (place(folder, 2) / MANIFEST).write_text(json.dumps(old))
    restored = load(folder, make_trainer(spec_with_guard(), Group()), Checkpoint(2, ""), (trainer.spec.fingerprint(),))
    assert (restored.step, restored.losses) == (2, None)


def test_state_shards_in_memory_hold_it_and_it_moves_with_the_update() -> None:
    trainer = make_trainer(spec_with_guard(), Group())
    advance(trainer, 0, 4)
    window = trainer.spikes.window()
    held = {0: [StateShard(4, 1, 0, 5, window)], 1: [StateShard(4, 1, 5, 9, window), StateShard(3, 1, 0, 9, window[:-1])]}
    source = newest_complete(held, 9)
    assert source
    assert (source.step, source.losses) == (4, window)

    def broken(*_: Any) -> Any:
        raise RuntimeError("the group is broken")

    reduce_to_owners = trainer.group.reduce_to_owners
    trainer.group.reduce_to_owners = broken  # type: ignore[method-assign]
    try:
        advance(trainer, 4, 1)
    except RuntimeError:
        assert (trainer.spikes.window(), trainer.updates) == (window, 4), "neither the state nor its window has moved"
    trainer.group.reduce_to_owners = reduce_to_owners  # type: ignore[method-assign]
    advance(trainer, 4, 1)
    assert [step for step, _ in trainer.spikes.window()] == [1, 2, 3, 4, 5]
