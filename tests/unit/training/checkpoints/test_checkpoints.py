"""Which checkpoints are complete, whole and kept; and what a committer does if storage refuses, and its cost."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from foundray.errors import InputError, RunFailed
from foundray.runs import checkpoints
from foundray.runs.checkpoints import Keep, best_step, completed_steps, place, prune
from foundray.runs.lineage import Cut
from foundray.runs.run import Run
from foundray.storage import Store
from foundray.testing.clock import SimulatedClock
from foundray.testing.specs import make_spec
from foundray.testing.trainers import make_trainer, save_checkpoint
from foundray.testing.waiting import wait_until
from foundray.training.checkpoints import checkpoint as reading
from foundray.training.checkpoints import written
from foundray.training.checkpoints.checkpoint import MANIFEST, load_latest, load_weights, write_shard
from foundray.training.checkpoints.coverage import problem_of
from foundray.training.checkpoints.leftovers import clear
from foundray.training.checkpoints.written import CheckpointManifest, ShardFile, commit
from foundray.training.collectives.group import Group
from foundray.training.elastic import committer as committing
from foundray.training.elastic.committer import MAX_PENDING, Committer
from foundray.training.elastic.messages import Status, Written

BLOCKS = 10
PARAMETERS = [("w", [BLOCKS * 256], 0)]


def state_of(*ranges: range) -> dict[str, torch.Tensor]:
    """A state whose every element is the number of its block."""
    return {"master": torch.cat([torch.arange(run.start, run.stop).repeat_interleave(256).float() for run in ranges])}


def make(folder: Store, step: int, *files: tuple[range, ...]) -> None:
    shards = [write_shard(folder, step, held, state_of(*held)) for held in files or ((range(BLOCKS),),)]
    commit(folder, CheckpointManifest(step=step, fingerprint="f", optimizer="adamw", parameters=PARAMETERS, shards=shards))


@pytest.fixture
def folder(tmp_path: Path) -> Store:
    return Store.at(tmp_path / "checkpoints")


def names(folder: Store) -> list[str]:
    return [child.name for child in folder.children()]


# What makes a checkpoint whole


def test_a_file_may_hold_several_ranges_and_any_cut_of_them_is_the_same_state(folder: Store) -> None:
    make(folder, 1)
    make(folder, 2, (range(0, 2), range(6, 7), range(9, 10)), (range(2, 6), range(7, 9)))
    for step in (1, 2):
        _, weights, _ = load_weights(folder, step=step)
        assert torch.equal(weights["w"], state_of(range(BLOCKS))["master"])


def test_a_manifest_of_an_earlier_version_is_read(folder: Store) -> None:
    make(folder, 1, (range(0, 4),), (range(4, 10),))
    file = Path(place(folder, 1).path) / MANIFEST
    manifest = json.loads(file.read_text())
    for shard in manifest["shards"]:
        ((start, stop),) = shard.pop("ranges")
        del shard["generation"]
        shard |= {"first_block": start, "blocks": stop - start}
    file.write_text(json.dumps(manifest))
    assert torch.equal(load_weights(folder)[1]["w"], state_of(range(BLOCKS))["master"])


@pytest.mark.parametrize(
    ("shards", "said"),
    [
        ([[(0, 5)], [(5, 10)]], ""),
        ([[(0, 1), (5, 10)], [(1, 5)]], ""),
        ([[(0, 5)], [(0, 5)]], "blocks 0 to 5 are in"),
        ([[(0, 5)], [(6, 10)]], "blocks 5 to 6 are in no shard"),
        ([[(0, 6)], [(5, 9)]], "blocks 5 to 6 are in"),
        ([[(0, 5)]], "blocks 5 to 10 are in no shard"),
        ([[(0, 11)]], "hold 11 blocks, and the model has 10"),
        ([], "blocks 0 to 10 are in no shard"),
    ],
)
def test_coverage_is_checked_and_not_counted(shards: list[list[tuple[int, int]]], said: str) -> None:
    found = problem_of(((f"file {index}", held, 0) for index, held in enumerate(shards)), BLOCKS)
    assert said in found
    assert bool(said) == bool(found)


def test_shards_of_two_groups_are_no_checkpoint() -> None:
    assert "the worker groups 1 and 2" in problem_of([("a", [(0, 5)], 1), ("b", [(5, 10)], 2)], BLOCKS)


def test_a_checkpoint_with_a_gap_is_passed_over_when_it_is_loaded(folder: Store) -> None:
    make(folder, 1)
    make(folder, 2, (range(0, 5),), (range(0, 5),))
    step, _, skipped = load_weights(folder)
    assert step == 1
    assert "step-00000002 is not whole (blocks 0 to 5 are in" in skipped[0]


# Which there are, and which are kept


def test_steps_count_as_numbers_and_a_name_may_end_in_its_last_cut(folder: Store) -> None:
    for step in (99_999_800, 99_999_900, 100_000_000, 100_000_100):
        make(folder, step)
    prune(folder, Keep(3))
    assert completed_steps(folder) == [100_000_100, 100_000_000, 99_999_900]
    Path(place(folder, 100_000_100).path).rename(Path(folder.path) / "step-100000100-a1b2")
    (Path(folder.path) / "lost+found").mkdir()
    assert completed_steps(folder) == [100_000_000, 99_999_900]
    lineage = (Cut("a1b2", 100_000_000),)
    assert completed_steps(folder, lineage) == [100_000_100, 100_000_000, 99_999_900]
    assert load_weights(folder, lineage=lineage)[0] == 100_000_100


def test_milestones_and_the_best_are_kept_and_what_is_incomplete_goes(folder: Store) -> None:
    for step in range(1, 13):
        make(folder, step)
    write_shard(folder, 0, range(5), state_of(range(5)))  # of a worker whose group broke
    write_shard(folder, 13, range(5), state_of(range(5)))  # another worker may be writing the rest now
    losses = {4: 1.0, 6: 0.5, 7: float("nan"), 8: 0.7, 12: 2.0}
    prune(folder, Keep(2, every=5, best=2, losses=lambda: losses))
    assert completed_steps(folder) == [12, 11, 10, 8, 6, 5]
    assert names(folder)[-1] == "step-00000013"
    assert len(names(folder)) == 7
    losses[11] = 0.1
    prune(folder, Keep(2, every=5, best=1, losses=lambda: losses))
    assert completed_steps(folder) == [12, 11, 10, 5]


def test_the_best_is_found_among_the_checkpoints_that_are_there(folder: Store) -> None:
    for step in (10, 20, 30):
        make(folder, step)
    events: list[dict[str, Any]] = [
        {"event": "evaluated", "step": step, "val_loss": loss} for step, loss in ((5, 0.1), (10, 2.0), (20, 1.5), (30, 1.0))
    ]
    assert best_step(folder, events) == 30
    events.append({"event": "rolled_back", "to": 20, "spike": 25, "passed_over": 5})  # 30 is yet to be evaluated again
    assert best_step(folder, events) == 20
    other = {"event": "evaluated", "step": 10, "val_loss": 0.1, "set": "other"}
    assert best_step(folder, [*events, other]) == 20
    last = {"event": "evaluated", "step": 30, "val_loss": 1.4, "compared_loss": 1.6}
    assert best_step(folder, [*events, last]) == 20, "the whole split is easier than what the others looked at"
    with pytest.raises(InputError, match=r"no complete checkpoint .* validation loss .*complete steps: 10, 20, 30"):
        best_step(folder, events[:1])


def test_a_deletion_that_is_broken_off_leaves_no_checkpoint(folder: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    for step in (1, 2, 3):
        make(folder, step)
    with monkeypatch.context() as broken:
        broken.setattr(Store, "delete_folder", lambda self: (_ for _ in ()).throw(InputError("away")))
        with pytest.raises(InputError, match="away"):
            prune(folder, Keep(2))
    assert completed_steps(folder) == [3, 2]
    assert len(names(folder)) == 3
    prune(folder, Keep(2))
    assert len(names(folder)) == 2


def test_what_killed_writers_left_is_removed_and_nothing_else(folder: Store, tmp_path: Path) -> None:
    make(folder, 1)
    for step in (0, 2):
        write_shard(folder, step, range(5), state_of(range(5)))
    kept = ["report.html.77.tmp", f"spec.yaml.{os.getpid()}.tmp", "spec.yaml", "notes.tmp"]
    gone = ["spec.yaml.77.tmp", "holder.json.77.tmp", "checkpoints/step-00000001/blocks-0.safetensors.77.tmp"]
    for name in [*kept, *gone]:
        (tmp_path / name).write_text("x")
    assert clear(Run(Store.at(tmp_path))) == ""
    assert sorted(file.name for file in tmp_path.iterdir()) == sorted(["checkpoints", *kept])
    assert names(folder) == ["step-00000001"]
    assert load_weights(folder)[0] == 1
    assert len(list(Path(place(folder, 1).path).iterdir())) == 2


# The committer


class Workers:
    """What workers report as written, as a committer sees it."""

    def __init__(self, folder: Store, wait_s: float = 60, **train: Any):
        self.folder, self.noted = folder, list[tuple[str, dict[str, Any]]]()
        self.spec = make_spec(fault__storage_wait_s=wait_s, **{f"train__{name}": value for name, value in train.items()})
        self.losses: dict[int, float] = {}
        self.committer = Committer(self.spec, folder, self.note, lambda: self.losses)
        self.written: tuple[tuple[Written, ...], ...] = ((), ())

    def note(self, name: str, **fields: Any) -> None:
        self.noted.append((name, fields))

    def write(self, step: int, *parts: range, generations: tuple[int, int] = (1, 1)) -> None:
        """Let two workers write one part each."""
        reported = [
            Written(generation, step, write_shard(self.folder, step, part, state_of(part), generation), 0.1)
            for part, generation in zip(parts or (range(5), range(5, 10)), generations, strict=True)
        ]
        self.written = tuple((*before, new) for before, new in zip(self.written, reported, strict=True))

    def look(self, recorded: int = 10**9, loaded: int = -1) -> None:
        facts = {"blocks": BLOCKS, "parameters": PARAMETERS}
        statuses = [Status("running", 1, 1, loaded=loaded, written=w, facts=facts) for w in self.written]
        self.committer.complete(1, statuses, recorded)

    def look_until(self, done: Callable[[], bool]) -> None:
        wait_until(lambda: self.look() or done(), 20, lambda: f"what is to be done: {self.noted}", pause=0.01)


def test_a_commit_in_flight_does_not_bring_back_what_a_cut_undoes(folder: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """Even if storage refuses to delete it: neither for this command nor for the next one."""

    def refused(place: Store) -> None:
        raise InputError(f"{place} cannot be deleted")

    monkeypatch.setattr(committing, "delete", refused)
    written, go_on = threading.Event(), threading.Event()
    honest = committing.commit

    def slow(folder: Store, manifest: CheckpointManifest) -> None:
        written.set()
        assert go_on.wait(20)
        honest(folder, manifest)

    make(folder, 80)
    workers = Workers(folder)
    monkeypatch.setattr(committing, "commit", slow)
    workers.write(104)
    workers.look()
    assert written.wait(20)
    lineage = (Cut("a1b2", 90),)
    workers.committer.follow(lineage)
    go_on.set()
    workers.committer.thread.shutdown(wait=True)
    assert completed_steps(folder) == [104, 80], "it is there"
    assert workers.committer.steps == Committer(workers.spec, folder, workers.note, lineage=lineage).steps == [80]
    assert load_weights(folder, lineage=lineage)[0] == 80
    # A state of the same step that the run makes after the cut has a folder of its own.
    write_shard(folder, 104, range(BLOCKS), state_of(range(BLOCKS)), made_under="a1b2")
    assert names(folder) == ["step-00000080", "step-00000104", "step-00000104-a1b2"]
    # Where deleting works, it goes.
    monkeypatch.undo()
    Committer(workers.spec, folder, workers.note, lineage=lineage).follow(lineage)
    assert names(folder) == ["step-00000080", "step-00000104-a1b2"]


def test_what_is_written_twice_or_by_two_groups_is_not_committed(folder: Store) -> None:
    workers = Workers(folder)
    workers.write(1, range(5), range(5))
    workers.write(2, generations=(1, 2))
    workers.write(3)
    workers.look_until(lambda: bool(workers.committer.steps))
    workers.look()
    workers.committer.thread.shutdown(wait=True)
    assert workers.committer.steps == completed_steps(folder) == [3]
    assert names(folder) == ["step-00000003"], "and what can never be whole is gone"


def test_pruning_that_fails_does_not_fail_the_commit_and_is_tried_again(folder: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    workers = Workers(folder, keep_checkpoints=2)
    refuse = {"now": True}
    delete = checkpoints.delete

    def refused(place: Store) -> None:
        if refuse["now"]:
            raise InputError(f"{place.name} cannot be deleted: Permission denied")
        delete(place)

    monkeypatch.setattr(checkpoints, "delete", refused)
    for step in (1, 2, 3, 4):
        workers.write(step)
        workers.look_until(lambda step=step: step in workers.committer.steps)  # type: ignore[misc]
    workers.look_until(lambda: workers.committer.writing is None)
    failed = [fields for name, fields in workers.noted if name == "prune_failed"]
    reason = "step-00000001 cannot be deleted: Permission denied"
    assert failed == [{"step": 3, "reason": reason}], "reported once, not with every checkpoint"
    assert [fields["step"] for name, fields in workers.noted if name == "checkpoint"] == [1, 2, 3, 4]
    assert not [name for name, _ in workers.noted if name == "checkpoint_failed"]
    refuse["now"] = False
    workers.write(5)
    workers.look_until(lambda: workers.committer.steps == [5, 4])
    assert completed_steps(folder) == [5, 4]


def test_a_manifest_that_storage_refuses_is_tried_again(folder: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("foundray.training.elastic.committer.RETRY_SECONDS", 0.05)
    workers = Workers(folder)
    workers.write(1)
    blocked = Path(place(folder, 1).path) / MANIFEST
    blocked.mkdir()
    workers.look_until(lambda: bool(workers.noted))
    assert workers.noted[0][0] == "checkpoint_failed"
    assert not workers.committer.idle(recorded=1), "an ending waits for it"
    assert workers.committer.idle(recorded=0)
    blocked.rmdir()
    workers.look_until(lambda: workers.committer.idle(recorded=1))
    assert workers.committer.steps == [1]


def test_a_milestone_whose_manifest_is_refused_once_is_not_overtaken(folder: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("foundray.training.elastic.committer.RETRY_SECONDS", 0.2)
    workers = Workers(folder, keep_checkpoints=2, keep_every=10)
    workers.write(10)
    blocked = Path(place(folder, 10).path) / MANIFEST
    blocked.mkdir()
    workers.look_until(lambda: bool(workers.noted))
    blocked.rmdir()
    for step in range(11, 11 + 2 * MAX_PENDING):
        workers.write(step)
        workers.look()
    workers.look_until(lambda: workers.committer.steps[:1] == [10 + 2 * MAX_PENDING])
    workers.committer.thread.shutdown(wait=True)
    assert {10, 20, 30} <= set(completed_steps(folder))
    assert load_weights(folder, step=10)[0] == 10


def test_a_manifest_that_is_always_refused_does_not_hold_up_later_ones(folder: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("foundray.training.elastic.committer.RETRY_SECONDS", 0.05)
    workers = Workers(folder, wait_s=0.3, keep_every=10)
    workers.write(10)
    (Path(place(folder, 10).path) / MANIFEST).mkdir()
    workers.look_until(lambda: bool(workers.noted))
    workers.write(11)
    workers.look_until(lambda: workers.committer.steps == [11])
    failed = [fields for name, fields in workers.noted if name == "checkpoint_failed"]
    assert failed[-1]["step"] == 10
    assert "giving it up, because later ones are waiting" in failed[-1]["reason"]


def damage(folder: Store, step: int) -> None:
    next(Path(place(folder, step).path).glob("blocks*")).write_bytes(b"rot")


def test_newer_checkpoints_that_were_passed_over_neither_count_nor_go(folder: Store) -> None:
    for step in (40, 50, 90, 100):
        make(folder, step)
    for step in (90, 100):
        damage(folder, step)
    workers = Workers(folder, keep_checkpoints=2)
    workers.write(60)
    workers.write(70)  # while the record of 60 is still on its way
    workers.look(recorded=60)
    while workers.committer.writing:
        workers.look(recorded=60)
    assert workers.committer.steps == [60, 50]
    assert completed_steps(folder) == [100, 90, 60, 50]
    workers.look_until(lambda: workers.committer.steps == [70, 60])
    assert load_weights(folder)[0] == 70, "whole, with all shards"
    for step in (100, 110):
        workers.write(step)
        workers.look_until(lambda step=step: workers.committer.steps[0] == step)  # type: ignore[misc]
    workers.committer.thread.shutdown(wait=True)
    assert completed_steps(folder) == [110, 100, 90]
    assert load_weights(folder, step=100)[0] == 100, "the run wrote its own in the place of the damaged one"


def test_a_command_does_not_end_with_the_damaged_checkpoint_that_it_replaces(folder: Store) -> None:
    for step in (1, 12):
        make(folder, step)
    damage(folder, 12)
    workers = Workers(folder)
    assert workers.committer.steps == [12, 1]
    workers.look(loaded=1)
    assert workers.committer.steps == [1], "12 is not kept before it is written again"
    assert completed_steps(folder) == [12, 1]
    workers.write(12)
    workers.look_until(lambda: workers.committer.steps == [12, 1])
    assert load_weights(folder)[0] == 12
    workers.look(loaded=1)
    assert workers.committer.steps == [12, 1], "only what was there when the group began is left out"


def test_a_commit_for_a_group_that_broke_leaves_the_shards_of_the_next_one(
    folder: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    workers = Workers(folder)
    may_go_on = threading.Event()
    monkeypatch.setattr("foundray.training.elastic.committer.commit", lambda *given: may_go_on.wait(20) and commit(*given))
    workers.write(60)
    workers.look()
    write_shard(folder, 55, range(5), state_of(range(5)), 2)
    workers.committer.complete(2, [Status("running", 1, 2, loaded=50)], 0)
    may_go_on.set()
    workers.committer.thread.shutdown(wait=True)
    assert names(folder) == ["step-00000055", "step-00000060"]


def test_the_best_by_validation_loss_is_kept(folder: Store) -> None:
    workers = Workers(folder, keep_checkpoints=2, keep_best=1)
    for step in range(1, 6):
        workers.losses[step] = abs(step - 2)
        workers.write(step)
        workers.look_until(lambda step=step: step in completed_steps(folder))  # type: ignore[misc]
    workers.committer.thread.shutdown(wait=True)
    assert completed_steps(folder) == [5, 4, 2]


def test_a_look_costs_the_same_however_many_checkpoints_there_were(folder: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """This counts, rather than times, the shards visited by a look in which nothing is new."""
    looked_at = 0
    coverage = written.coverage

    def counted(shards: list[ShardFile], blocks: int) -> str:
        nonlocal looked_at
        looked_at += len(shards)
        return coverage(shards, blocks)

    monkeypatch.setattr("foundray.training.elastic.committer.coverage", counted)
    workers = Workers(folder, keep_checkpoints=2)
    for step in range(1, 51):
        workers.write(step)
        workers.look_until(lambda step=step: step in workers.committer.steps)  # type: ignore[misc]
    workers.look_until(lambda: workers.committer.writing is None)
    looked_at, facts = 0, {"blocks": BLOCKS, "parameters": PARAMETERS}
    statuses = [Status("running", 1, 1, written=written, facts=facts) for written in workers.written]
    for _ in range(100):
        workers.committer.complete(1, statuses, 10**9)
    assert looked_at == 0
    assert (len(workers.committer.pending), len(workers.committer.checkpoints)) == (0, 2)


# Storage that does not answer


def test_storage_that_is_away_is_waited_for_and_nothing_is_passed_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trainer, folder = make_trainer(make_spec(), Group()), Store.at(tmp_path / "checkpoints")
    for step in (1, 2):
        trainer.flat.buffer.fill_(step)
        save_checkpoint(folder, trainer, step, "print", keep=2)
    monkeypatch.setattr(reading, "RETRY_SECONDS", 0.05)
    shard = next((tmp_path / "checkpoints/step-00000002").glob("*.safetensors"))
    content = shard.read_bytes()
    shard.unlink()
    shard.mkdir()  # there, and not to be read
    (clock := SimulatedClock()).install(monkeypatch.setattr)
    with pytest.raises(RunFailed, match=r"cannot be read: .*; `foundray resume .*` continues once storage answers"):
        away(folder, trainer, monkeypatch)
    began = clock.monotonic()
    assert load_latest(folder, trainer, "print", wait_s=0.3).step == 1, "after that, the one before will do"
    assert 0.25 <= clock.monotonic() - began <= 0.3

    class Restored(SimulatedClock):
        """Storage answers after the first pause."""

        def sleep(self, seconds: float) -> None:
            super().sleep(seconds)
            if shard.is_dir():
                shard.rmdir()
                shard.write_bytes(content)

    Restored().install(monkeypatch.setattr)
    again = load_latest(folder, trainer, "print", wait_s=5)
    assert (again.step, again.skipped) == (2, [])


def away(folder: Store, trainer: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Load with only the unreadable checkpoint there."""
    hidden = Path(place(folder, 1).path)
    hidden.rename(hidden.with_name("hidden"))
    try:
        load_latest(folder, trainer, "print", wait_s=0.2)
    finally:
        hidden.with_name("hidden").rename(hidden)
