"""Checkpoints to keep are not skipped if storage is slow or fails for a while."""

from __future__ import annotations

import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from foundray.errors import InputError
from foundray.runs.checkpoints import folders
from foundray.storage import Store
from foundray.testing.specs import make_spec
from foundray.testing.trainers import VOCABULARY
from foundray.training.checkpoints.written import ShardFile
from foundray.training.collectives.group import Group
from foundray.training.elastic import shard_writer
from foundray.training.elastic.loop import Loop
from foundray.training.elastic.messages import Work
from foundray.training.elastic.replicas import Replicas
from foundray.training.elastic.worker import Worker


class Sole:
    """A worker's loop in a group of one, after its steps."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch, **changes: Any):
        self.late: list[int] = []
        spec = make_spec(**changes)
        nothing: Any = None
        work = Work(spec.model_dump_json(), str(folder), nothing, VOCABULARY, (), (), (), nothing, nothing)
        self.worker_actor = Worker("cpu")
        self.loop = Loop(work, self.worker_actor)
        self.loop.trainer.take_part(Group(), (0, self.loop.trainer.layout.blocks))
        self.loop.trainer.initialise()
        self.loop.checkpoint_due, self.loop.evaluated = False, spec.train.steps
        order: Any = SimpleNamespace(generation=self.worker_actor.status.generation, replica_holder=None, lineage=())
        self.loop.order = order
        monkeypatch.setattr(self.loop.journal, "event", lambda name, step, **_: self.late.append(step))

    def after(self, *steps: int) -> None:
        for step in steps:
            self.loop.done = step
            self.loop._after_step()

    def outcomes(self) -> dict[int, str]:
        """Outcome of the shards by step: empty if written."""
        self.loop.shard_writer.thread.shutdown(wait=True)
        written = self.worker_actor.status.written
        return {one.step: one.shards if isinstance(one.shards, str) else "" for one in written}


KEEPING = {"train__checkpoint_every": 1, "train__steps": 9, "train__evaluate_every": 9}


@pytest.mark.parametrize("pinned", [{"train__keep_every": 3}, {"train__keep_best": 1, "train__evaluate_every": 3}])
def test_one_to_keep_waits_for_the_one_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pinned: dict[str, Any]) -> None:
    worker, write = Sole(tmp_path, monkeypatch, **{**KEEPING, **pinned}), shard_writer.write_shard

    answers = {1: threading.Event(), 3: threading.Event()}

    def slow(folder: Store, step: int, *rest: Any) -> tuple[ShardFile, ...]:
        assert answers[step].wait(20)
        return write(folder, step, *rest)

    monkeypatch.setattr(shard_writer, "write_shard", slow)
    worker.after(1, 2)
    threading.Timer(0.2, answers[1].set).start()
    worker.after(3, 4)
    assert answers[1].is_set()
    assert worker.late == [2, 4], "others can replace these"
    answers[3].set()
    assert worker.outcomes() == {1: "", 3: ""}
    assert len(folders(Store.at(tmp_path) / "checkpoints")) == 2


def test_one_to_keep_is_tried_again_and_others_are_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    worker, write = Sole(tmp_path, monkeypatch, **KEEPING, train__keep_every=3), shard_writer.write_shard
    monkeypatch.setattr(shard_writer, "RETRY_SECONDS", 0.01)
    refused = {2: 1, 3: 2}

    def refusing(folder: Store, step: int, *rest: Any) -> tuple[ShardFile, ...]:
        if refused.get(step):
            refused[step] -= 1
            raise InputError("503")
        return write(folder, step, *rest)

    monkeypatch.setattr(shard_writer, "write_shard", refusing)
    for step in (2, 3):
        worker.after(step)
        worker.loop.shard_writer.finish()
    assert worker.outcomes() == {2: "503", 3: ""}


def test_one_to_keep_that_cannot_be_written_is_reported_and_ends_no_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    worker, answers = (
        Sole(tmp_path, monkeypatch, **KEEPING, train__keep_every=3, fault__storage_wait_s=0.2),
        threading.Event(),
    )

    def hanging(*_: Any) -> tuple[ShardFile, ...]:
        answers.wait(20)
        raise InputError("503")

    monkeypatch.setattr(shard_writer, "write_shard", hanging)
    worker.after(2, 3)
    answers.set()
    worker.loop.shard_writer.finish()
    worker.after(6)
    outcomes = worker.outcomes()
    assert outcomes == {3: "it was to be kept, but the previous one was not written within 0 s", 2: "503", 6: "503"}


def test_the_state_with_which_a_group_begins_is_copied_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Copying it again would hold up the first step: each copy waits until the one before has arrived."""
    worker, kept = Sole(tmp_path, monkeypatch, guard__spike=6, guard__roll_back=1), list[int]()
    loop, worker.worker_actor.replicas = worker.loop, Replicas(1)
    monkeypatch.setattr(worker.worker_actor.replicas, "keep", lambda shard, *_, **__: kept.append(shard.step))
    loop.done = loop.trainer.updates = 3
    loop._replicate(loop.trainer.state_shard())  # as joining does
    worker.after(3)
    loop.trainer.updates = 4
    worker.after(4)
    assert kept == [3, 4]
