"""Checkpoints completed and pruned on real files: the protocol says which, and the committer's thread does it."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from foundray.errors import InputError
from foundray.runs import checkpoints
from foundray.runs.checkpoints import MANIFEST, Checkpoint, completed, completed_steps, place, state_of
from foundray.runs.lineage import Cut, Lineage, usable
from foundray.storage import Store
from foundray.testing.specs import make_spec
from foundray.testing.waiting import wait_until
from foundray.training.checkpoints.checkpoint import load_weights, write_shard
from foundray.training.checkpoints.written import CheckpointManifest, commit
from foundray.training.elastic import committer as committing
from foundray.training.elastic.committer import Committer
from foundray.training.protocol import commits
from foundray.training.protocol.commits import MAX_PENDING, Commits
from foundray.training.protocol.messages import Commit, Committed, Decision, NotCommitted, Note, Pruned, Written
from foundray.training.step.blocks import Blocks

BLOCKS = 10
PARAMETERS = [("w", [BLOCKS * 256], 0)]
ALL = 10**9
"""A step up to which all records are stored."""


def state(*ranges: range) -> dict[str, torch.Tensor]:
    """A state whose every element is the number of its block."""
    return {"master": torch.cat([torch.arange(run.start, run.stop).repeat_interleave(256).float() for run in ranges])}


def make(folder: Store, step: int) -> None:
    """A complete checkpoint of an earlier command."""
    shards = write_shard(folder, step, Blocks((range(BLOCKS),)), state(range(BLOCKS)))
    commit(
        folder, CheckpointManifest(step=step, fingerprint="f", optimizer="adamw", parameters=PARAMETERS, shards=list(shards))
    )


@pytest.fixture
def folder(tmp_path: Path) -> Store:
    return Store.at(tmp_path / "checkpoints")


def names(folder: Store) -> list[str]:
    return [child.name for child in folder.children()]


class Driver:
    """What workers report goes to `Commits`, and what these decide is done by the `Committer`, as in the coordinator."""

    def __init__(self, folder: Store, wait_s: float = 60, lineage: Lineage = (), **train: Any):
        self.folder, self.noted, self.now = folder, list[tuple[str, dict[str, Any]]](), 0.0
        spec = make_spec(fault__storage_wait_s=wait_s, **{f"train__{name}": value for name, value in train.items()})
        self.losses: dict[int, float] = {}
        self.decided = list[Decision]()
        self.complete = [Checkpoint(*state_of(one)) for one in completed(folder, lineage)]
        self.committer = Committer(spec, folder, self.note, lambda: self.losses, lineage)
        self.commits = Commits(wait_s, spec.pins, self.decided.append)
        self.written: tuple[tuple[Written, ...], ...] = ((), ())
        self.begin(1)

    def begin(self, generation: int) -> None:
        """Let a new group begin, which has written nothing."""
        self.committer.generation, self.written = generation, ((), ())
        self.commits.begin(generation, BLOCKS)

    @property
    def steps(self) -> list[int]:
        """Steps of the checkpoints known to be complete, newest first."""
        return [one.step for one in self.complete]

    def note(self, name: str, **fields: Any) -> None:
        self.noted.append((name, fields))

    def notes(self, name: str) -> list[dict[str, Any]]:
        return [fields for kind, fields in self.noted if kind == name]

    def write(self, step: int, *parts: range, generations: tuple[int, int] = (1, 1), made_under: str = "") -> None:
        """Let two workers write one part each."""
        reported = [
            Written(of, step, made_under, write_shard(self.folder, step, Blocks((blocks,)), state(blocks), of, made_under), 0.1)
            for blocks, of in zip(parts or (range(5), range(5, 10)), generations, strict=True)
        ]
        self.written = tuple((*before, new) for before, new in zip(self.written, reported, strict=True))

    def look(self, stored: int = ALL) -> None:
        """Take what is done, and what the workers report; do what is decided. Each look is a second after the last."""
        self.now += commits.RETRY_SECONDS
        for event in self.committer.poll():
            match event:
                case Committed(generation, made):
                    self.commits.committed(generation, made.step)
                    self.complete = sorted({made, *(one for one in self.complete if one.name != made.name)}, reverse=True)
                case NotCommitted(checkpoint, reason):
                    self.commits.not_committed(checkpoint.step, reason, self.now)
                case Pruned(gone):
                    self.complete = [one for one in self.complete if one.name not in {old.name for old in gone}]
        for number, written in enumerate(self.written):
            self.commits.take(number, written)
        self.commits.write_next(stored, self.now)
        for decision in self.decided:
            match decision:
                case Commit():
                    lineage = self.committer.lineage
                    self.committer.write(decision, PARAMETERS, [one for one in self.complete if usable(*one.name, lineage)])
                case Note(kind, fields):
                    self.note(kind, **fields)
        self.decided.clear()

    def look_until(self, done: Callable[[], bool], stored: int = ALL) -> None:
        wait_until(lambda: self.look(stored) or done(), 20, lambda: f"what is to be done: {self.noted}", pause=0.01)

    def finish(self, stored: int = ALL) -> None:
        """Look until nothing is left to do."""
        self.look_until(lambda: self.commits.idle(stored) and not self.committer.writing, stored)
        self.committer.thread.shutdown(wait=True)


def test_a_commit_in_flight_does_not_bring_back_what_a_cut_undoes(folder: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """Even if storage refuses to delete it: neither for this command nor for the next one."""

    def refused(place: Store) -> None:
        raise InputError(f"{place} cannot be deleted")

    monkeypatch.setattr(committing, "delete", refused)
    written, go_on = threading.Event(), threading.Event()
    honest = committing.commit

    def slow(folder: Store, manifest: CheckpointManifest) -> str:
        written.set()
        assert go_on.wait(20)
        return honest(folder, manifest)

    make(folder, 80)
    driver = Driver(folder)
    monkeypatch.setattr(committing, "commit", slow)
    driver.write(104)
    driver.look()
    assert written.wait(20)
    lineage = (Cut("a1b2", 90),)
    driver.committer.follow(lineage)
    go_on.set()
    driver.finish()
    assert completed_steps(folder) == [104, 80], "it is there"
    assert [one.step for one in driver.complete if usable(*one.name, lineage)] == [80]
    assert Driver(folder, lineage=lineage).steps == [80]
    assert load_weights(folder, lineage=lineage)[0] == 80
    # A state of the same step that the run makes after the cut has a folder of its own.
    write_shard(folder, 104, Blocks((range(BLOCKS),)), state(range(BLOCKS)), made_under="a1b2")
    assert names(folder) == ["step-00000080", "step-00000104", "step-00000104-a1b2"]
    # Where deleting works, it goes.
    monkeypatch.undo()
    Driver(folder, lineage=lineage).committer.follow(lineage)
    assert names(folder) == ["step-00000080", "step-00000104-a1b2"]


def test_a_checkpoint_made_under_a_cut_has_its_name_in_folder_and_manifest(folder: Store) -> None:
    driver = Driver(folder, lineage=(Cut("a1b2", 90),))
    driver.write(104, made_under="a1b2")
    driver.finish()
    (made,) = driver.complete
    assert made.name == (104, "a1b2") and len(made.sha256) == 64, "and an order names its manifest's hash"
    assert names(folder) == ["step-00000104-a1b2"]
    assert load_weights(folder, lineage=(Cut("a1b2", 90),))[0] == 104


def test_what_is_written_twice_or_by_two_groups_is_not_committed(folder: Store) -> None:
    driver = Driver(folder)
    driver.write(1, range(5), range(5))
    driver.write(2, generations=(1, 2))
    driver.write(3)
    driver.finish()
    assert driver.steps == completed_steps(folder) == [3]
    assert names(folder) == ["step-00000003"], "and what can never be whole is gone"


def test_pruning_that_fails_does_not_fail_the_commit_and_is_tried_again(folder: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    driver = Driver(folder, keep_checkpoints=2)
    refuse = {"now": True}
    delete = checkpoints.delete

    def refused(place: Store) -> None:
        if refuse["now"]:
            raise InputError(f"{place.name} cannot be deleted: Permission denied")
        delete(place)

    monkeypatch.setattr(checkpoints, "delete", refused)
    for step in (1, 2, 3, 4):
        driver.write(step)
        driver.look_until(lambda step=step: step in driver.steps)  # type: ignore[misc]
    reason = "step-00000001 cannot be deleted: Permission denied"
    assert driver.notes("prune_failed") == [{"step": 3, "reason": reason}], "reported once, not with every checkpoint"
    assert [fields["step"] for fields in driver.notes("checkpoint")] == [1, 2, 3, 4]
    assert not driver.notes("checkpoint_failed")
    refuse["now"] = False
    driver.write(5)
    driver.finish()
    assert driver.steps == completed_steps(folder) == [5, 4]


def test_a_manifest_that_storage_refuses_is_tried_again(folder: Store) -> None:
    driver = Driver(folder)
    driver.write(1)
    blocked = Path(place(folder, 1).path) / MANIFEST
    blocked.mkdir()
    driver.look_until(lambda: bool(driver.noted))
    assert driver.noted[0][0] == "checkpoint_failed"
    assert not driver.commits.idle(stored=1), "an ending waits for it"
    assert driver.committer.writing or driver.commits.idle(stored=0)
    blocked.rmdir()
    driver.finish()
    assert driver.steps == [1]


def test_a_milestone_whose_manifest_is_refused_once_is_not_overtaken(folder: Store) -> None:
    driver = Driver(folder, keep_checkpoints=2, keep_every=10)
    driver.write(10)
    blocked = Path(place(folder, 10).path) / MANIFEST
    blocked.mkdir()
    driver.look_until(lambda: bool(driver.noted))
    blocked.rmdir()
    for step in range(11, 11 + 2 * MAX_PENDING):
        driver.write(step)
        driver.look()
    driver.finish()
    assert driver.steps[0] == 10 + 2 * MAX_PENDING
    assert {10, 20, 30} <= set(completed_steps(folder))
    assert load_weights(folder, step=10)[0] == 10


def test_a_manifest_that_is_always_refused_does_not_hold_up_later_ones(folder: Store) -> None:
    driver = Driver(folder, wait_s=5, keep_every=10)
    driver.write(10)
    (Path(place(folder, 10).path) / MANIFEST).mkdir()
    driver.look_until(lambda: bool(driver.noted))
    driver.write(11)
    driver.look_until(lambda: driver.steps == [11])
    failed = driver.notes("checkpoint_failed")
    assert failed[-1]["step"] == 10
    assert "giving it up, because later ones are waiting" in failed[-1]["reason"]


def test_newer_checkpoints_that_were_skipped_neither_count_nor_go(folder: Store) -> None:
    for step in (40, 50, 90, 100):
        make(folder, step)
    for step in (90, 100):
        next(Path(place(folder, step).path).glob("blocks*")).write_bytes(b"rot")
    driver = Driver(folder, keep_checkpoints=2)
    driver.complete = [one for one in driver.complete if one.step < 90]  # `Protocol.usable`
    driver.write(60)
    driver.write(70)  # while the record of 60 is still on its way
    driver.look_until(lambda: driver.steps == [60, 50], stored=60)
    assert completed_steps(folder) == [100, 90, 60, 50]
    driver.look_until(lambda: driver.steps == [70, 60])
    assert load_weights(folder)[0] == 70, "whole, with all shards"
    for step in (100, 110):
        driver.write(step)
        driver.look_until(lambda step=step: driver.steps[0] == step)  # type: ignore[misc]
    driver.finish()
    assert completed_steps(folder) == [110, 100, 90]
    assert load_weights(folder, step=100)[0] == 100, "the run wrote its own in the place of the damaged one"


def test_a_commit_for_a_group_that_broke_leaves_the_shards_of_the_next_one(
    folder: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    driver = Driver(folder)
    may_go_on = threading.Event()
    monkeypatch.setattr(committing, "commit", lambda *given: (may_go_on.wait(20) and commit(*given)) or "")
    driver.write(60)
    driver.look()
    write_shard(folder, 55, Blocks((range(5),)), state(range(5)), 2)
    driver.begin(2)
    may_go_on.set()
    driver.finish()
    assert driver.steps == [60]
    assert names(folder) == ["step-00000055", "step-00000060"]


def test_the_best_by_validation_loss_is_kept(folder: Store) -> None:
    driver = Driver(folder, keep_checkpoints=2, keep_best=1)
    for step in range(1, 6):
        driver.losses[step] = abs(step - 2)
        driver.write(step)
        driver.look_until(lambda step=step: step in driver.steps)  # type: ignore[misc]
    driver.finish()
    assert completed_steps(folder) == driver.steps == [5, 4, 2]
