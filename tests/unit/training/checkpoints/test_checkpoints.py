"""Which checkpoints are complete, whole and kept, and storage that does not answer."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import torch as safetensors

from foundray.errors import InputError
from foundray.runs.checkpoints import MANIFEST, Checkpoint, Keep, best_step, completed_steps, place, prune
from foundray.runs.lineage import Cut
from foundray.runs.run import Run
from foundray.storage import Store
from foundray.testing.clock import SimulatedClock
from foundray.testing.specs import make_spec
from foundray.testing.trainers import make_trainer, save_checkpoint
from foundray.training.checkpoints import checkpoint as reading
from foundray.training.checkpoints.checkpoint import load, load_states, load_weights, write_shard
from foundray.training.checkpoints.coverage import problem_of
from foundray.training.checkpoints.leftovers import clear
from foundray.training.checkpoints.memory import in_files, in_memory_or_files, stream_tensors
from foundray.training.checkpoints.unusable import Unusable
from foundray.training.checkpoints.written import CheckpointManifest, commit
from foundray.training.collectives.group import Group
from foundray.training.step.blocks import Blocks

BLOCKS = 10
PARAMETERS = [("w", [BLOCKS * 256], 0)]


def state_of(*ranges: range) -> dict[str, torch.Tensor]:
    """A state whose every element is the number of its block."""
    return {"master": torch.cat([torch.arange(run.start, run.stop).repeat_interleave(256).float() for run in ranges])}


def make(folder: Store, step: int, *files: tuple[range, ...]) -> None:
    written = [write_shard(folder, step, Blocks(tuple(held)), state_of(*held)) for held in files or ((range(BLOCKS),),)]
    shards = [file for files in written for file in files]
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


def test_a_large_shard_is_several_files(folder: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """No more than a file of it is in memory beside the state, when it is written and when it is read."""
    monkeypatch.setattr("foundray.training.checkpoints.checkpoint.FILE_BYTES", 3 * 256 * 4)
    make(folder, 1, (range(0, 2), range(5, 10)), (range(2, 5),))
    sizes = [size for name, size in place(folder, 1).files().items() if name != MANIFEST]
    assert len(sizes) == 4 and max(sizes) < 4 * 256 * 4
    assert torch.equal(load_weights(folder)[1]["w"], state_of(range(BLOCKS))["master"])


def test_weights_can_be_read_into_files(folder: Store, tmp_path: Path) -> None:
    make(folder, 1, (range(0, 4),), (range(4, 10),))
    _, found, _ = load_states(folder, ("master",), room=in_files(tmp_path))
    assert torch.equal(found["master"]["w"], state_of(range(BLOCKS))["master"])
    assert torch.equal(torch.from_file(str(tmp_path / "master.memory"), size=BLOCKS * 256), state_of(range(BLOCKS))["master"])


def test_weights_that_are_large_are_read_into_files_without_names(
    folder: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make(folder, 1)
    monkeypatch.setattr("foundray.training.checkpoints.memory.LARGE", BLOCKS * 256 * 4)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    _, found, _ = load_states(folder, ("master",), room=in_memory_or_files)
    assert torch.equal(found["master"]["w"], state_of(range(BLOCKS))["master"])
    mapped = Path("/proc/self/maps").read_text()
    assert f"{tmp_path}" in mapped and "master.memory (deleted)" in mapped
    assert [child.name for child in tmp_path.iterdir()] == ["checkpoints"]


def test_a_tensor_that_some_files_lack_is_damage(folder: Store) -> None:
    whole = state_of(range(5, 10))
    files = [
        *write_shard(folder, 1, Blocks((range(5),)), {**state_of(range(5)), "teacher": whole["master"]}),
        *write_shard(folder, 1, Blocks((range(5, 10),)), whole),
    ]
    commit(folder, CheckpointManifest(step=1, fingerprint="f", optimizer="adamw", parameters=PARAMETERS, shards=files))
    with pytest.raises(InputError, match="teacher is not in all of its files"):
        load_states(folder, ("master", "teacher"))


def test_tensors_that_are_streamed_make_the_librarys_file(tmp_path: Path) -> None:
    tensors = {
        "a": torch.arange(7, dtype=torch.uint8), "b.c": torch.randn(3, 5), "\u00e9": torch.randn(2, 4, 3).transpose(0, 2),
    }  # fmt: skip
    with (tmp_path / "file").open("wb") as stream:
        size, sha = stream_tensors(stream, {name: [tensor[:1], tensor[1:]] for name, tensor in tensors.items()})
    content = (tmp_path / "file").read_bytes()
    assert (size, sha) == (len(content), hashlib.sha256(content).hexdigest())
    found = safetensors.load(content)
    assert all(torch.equal(found[name], tensor) for name, tensor in tensors.items()) and found.keys() == tensors.keys()
    assert content == safetensors.save({name: tensor.contiguous() for name, tensor in tensors.items()})


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
    write_shard(folder, 0, Blocks((range(5),)), state_of(range(5)))  # of a worker whose group broke
    write_shard(folder, 13, Blocks((range(5),)), state_of(range(5)))  # another worker may be writing the rest now
    losses = {4: 1.0, 6: 0.5, 7: float("nan"), 8: 0.7, 12: 2.0}
    prune(folder, Keep(2, every=5, best=2, losses=lambda: losses))
    assert completed_steps(folder) == [12, 11, 10, 8, 6, 5]
    assert names(folder)[-1] == "step-00000013"
    assert len(names(folder)) == 7
    losses[11] = 0.1
    prune(folder, Keep(2, every=5, best=1, losses=lambda: losses))
    assert completed_steps(folder) == [12, 11, 10, 5]


def test_what_a_cut_may_return_to_is_kept() -> None:
    keep = Keep(1, anchors=(4, 10))
    assert keep.of([7, 6, 4, 3]) == {7, 4}, "and nothing for the longer interval, before its first multiple"
    assert keep.of([13, 12, 9, 7]) == {13, 12, 9}
    assert keep.of([]) == set()
    keep = Keep(1, rechecked=lambda: 8)
    assert keep.of([13, 12, 9, 7, 6]) == {13, 7}, "what a recheck has passed"
    assert keep.of([13, 12, 9]) == {13}, "and there is none"


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
        write_shard(folder, step, Blocks((range(5),)), state_of(range(5)))
    kept = ["report.html.77.tmp", f"spec.yaml.{os.getpid()}.tmp", "spec.yaml", "notes.tmp"]
    gone = ["spec.yaml.77.tmp", "holder.json.77.tmp", "checkpoints/step-00000001/blocks-0.safetensors.77.tmp"]
    for name in [*kept, *gone]:
        (tmp_path / name).write_text("x")
    assert clear(Run(Store.at(tmp_path))) == ""
    assert sorted(file.name for file in tmp_path.iterdir()) == sorted(["checkpoints", *kept])
    assert names(folder) == ["step-00000001"]
    assert load_weights(folder)[0] == 1
    assert len(list(Path(place(folder, 1).path).iterdir())) == 2


# Storage that does not answer


def test_storage_that_is_away_is_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trainer, folder = make_trainer(make_spec(), Group()), Store.at(tmp_path / "checkpoints")
    save_checkpoint(folder, trainer, 2, "print", keep=2)
    monkeypatch.setattr(reading, "RETRY_SECONDS", 0.05)
    shard = next((tmp_path / "checkpoints/step-00000002").glob("*.safetensors"))
    content = shard.read_bytes()
    shard.unlink()
    shard.mkdir()  # there, and not to be read
    (clock := SimulatedClock()).install(monkeypatch.setattr)
    with pytest.raises(Unusable, match="cannot be read") as refused:
        load(folder, trainer, Checkpoint(2, ""), "print", wait_s=0.3)
    assert refused.value.away, "a later attempt may succeed, so that nothing is skipped"
    assert 0.25 <= clock.monotonic() <= 0.3

    class Restored(SimulatedClock):
        """Storage answers after the first pause."""

        def sleep(self, seconds: float) -> None:
            super().sleep(seconds)
            if shard.is_dir():
                shard.rmdir()
                shard.write_bytes(content)

    Restored().install(monkeypatch.setattr)
    assert load(folder, trainer, Checkpoint(2, ""), "print", wait_s=5).step == 2
