"""Damage, half-written folders, and the manifest's purpose. The tests of the exact step show that bits survive."""

from pathlib import Path

import pytest
import torch

from foundray.errors import InputError
from foundray.runs.checkpoints import MANIFEST, Checkpoint, completed, completed_steps, place
from foundray.storage import Store, sha256
from foundray.testing.specs import make_spec
from foundray.testing.trainers import make_trainer, save_checkpoint
from foundray.training.checkpoints.checkpoint import load, load_weights, weights_sha256
from foundray.training.checkpoints.unusable import Unusable
from foundray.training.collectives.group import Group
from foundray.training.step.trainer import Trainer


@pytest.fixture
def saved(tmp_path: Path) -> tuple[Store, Trainer]:
    """Checkpoints of steps 1, 2 and 3: all weights equal the step."""
    trainer, folder = make_trainer(make_spec(), Group()), Store.at(tmp_path / "checkpoints")
    for step in (1, 2, 3):
        trainer.flat.buffer.fill_(step)
        save_checkpoint(folder, trainer, step, "print", keep=3)
    return folder, trainer


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def shard(folder: Store, step: int) -> Path:
    return next(Path(folder.path).glob(f"step-{step:08d}/*.safetensors"))


def refusal(folder: Store, trainer: Trainer, step: int, fingerprint: str = "print", sha: str = "") -> str:
    """Why the checkpoint of a step cannot be used, which waiting would not change."""
    with pytest.raises(Unusable) as refused:
        load(folder, trainer, Checkpoint(step, "", sha), fingerprint)
    assert refused.value.checkpoint.step == step and not refused.value.away
    return str(refused.value)


def test_one_changed_byte_is_found_and_what_is_whole_is_loaded(saved: tuple[Store, Trainer]) -> None:
    folder, trainer = saved
    flip(shard(folder, 3))
    trainer.flat.buffer.zero_()
    assert "step-00000003 is damaged (the SHA-256" in refusal(folder, trainer, 3)
    assert (trainer.flat.buffer == 0).all(), "nothing of it is taken"
    assert load(folder, trainer, Checkpoint(2, ""), "print").step == 2
    assert (trainer.flat.buffer == 2).all()
    step, weights, skipped = load_weights(folder)
    assert (step, len(skipped)) == (2, 1)
    assert all((tensor == 2).all() for tensor in weights.values())


def test_missing_and_unreadable_parts_are_found_too(saved: tuple[Store, Trainer]) -> None:
    folder, trainer = saved
    shard(folder, 3).unlink()
    (Path(folder.path) / "step-00000002" / "manifest.json").write_text("{")
    assert "step-00000003 is damaged" in refusal(folder, trainer, 3)
    assert "step-00000002 is damaged (manifest.json is not readable)" in refusal(folder, trainer, 2)


def test_the_manifest_ordered_is_the_one_that_is_loaded(saved: tuple[Store, Trainer]) -> None:
    """Another command may have written another one in its place."""
    folder, trainer = saved
    sha = sha256((place(folder, 3) / MANIFEST).read_bytes())
    assert load(folder, trainer, Checkpoint(3, "", sha), "print").step == 3
    with pytest.raises(Unusable, match=r"manifest.json of step-00000003 has been replaced") as refused:
        load(folder, trainer, Checkpoint(3, "", "0" * 64), "print", wait_s=60)
    assert refused.value.away, "the next order names the one that is there"


def test_a_folder_without_a_manifest_is_no_checkpoint(saved: tuple[Store, Trainer]) -> None:
    folder, trainer = saved
    (Path(folder.path) / "step-00000003" / "manifest.json").unlink()
    assert completed_steps(folder) == [2, 1]
    assert "step-00000003" in refusal(folder, trainer, 3)


def test_nothing_usable_is_an_error_and_nothing_is_deleted(saved: tuple[Store, Trainer]) -> None:
    folder, trainer = saved
    for step in (1, 2, 3):
        flip(shard(folder, step))
        refusal(folder, trainer, step)
    with pytest.raises(InputError, match=r"holds no usable checkpoint: step-00000003 is damaged"):
        load_weights(folder)
    assert len(completed(folder)) == 3


def test_another_specs_checkpoint_is_not_loaded(saved: tuple[Store, Trainer]) -> None:
    folder, trainer = saved
    assert "made by another spec" in refusal(folder, trainer, 3, "other")


def test_old_ones_are_removed(saved: tuple[Store, Trainer]) -> None:
    folder, trainer = saved
    save_checkpoint(folder, trainer, 4, "print", keep=2)
    assert [place.name for place in folder.children()] == ["step-00000003", "step-00000004"]


def test_no_pickle(saved: tuple[Store, Trainer]) -> None:
    folder, _ = saved
    for path in Path(folder.path).rglob("*.*"):
        assert path.suffix in (".safetensors", ".json")


def test_weights_sha256_is_as_documented(saved: tuple[Store, Trainer]) -> None:
    import hashlib

    _, trainer = saved
    torch.nn.init.normal_(trainer.flat.buffer)
    sha = hashlib.sha256()
    for name, parameter in sorted(trainer.model.named_parameters()):
        sha.update(name.encode("utf-8") + parameter.detach().numpy().astype("<f4").tobytes())
    assert weights_sha256(trainer.weights()) == sha.hexdigest()
