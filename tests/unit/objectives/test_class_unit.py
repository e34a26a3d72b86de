"""The class unit: its attention, its position, and that nothing changes without it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests.unit.files import picture, task_file
from torch import nn

import foundray
from foundray.contract import Units, UnitShape
from foundray.errors import InputError
from foundray.evaluation.encoder import Encoder, batches, check_pool, features
from foundray.model.model import Batch, Model, initialise
from foundray.spec import Spec
from foundray.testing.groups import run_group
from foundray.testing.runs import run_with_checkpoint
from foundray.testing.specs import IMAGES, make_spec
from foundray.testing.trainers import make_model, make_trainer, micro_batch, train_steps
from foundray.training.collectives.group import Group
from foundray.training.evaluating.evaluation import evaluate

PICTURES: dict[str, Any] = {
    "data": {"sources": [{"path": "x", "format": "files"}], "modality": {"kind": "image", "size": 16, "patch": 4}},
    "objective": {"kind": "masked_pixel"}, "model__context": 16,
}  # fmt: skip
SOUND: dict[str, Any] = {
    "data": {"sources": [{"path": "x", "format": "files"}], "modality": {"kind": "audio", "rate": 8000, "bins": 6}},
    "objective": {"kind": "masked_frame", "codes": 16, "span": 3}, "model__context": 16,
}  # fmt: skip
JEPA: dict[str, Any] = {**PICTURES, "objective": {"kind": "joint_embedding", "masking": "drop"}}
CONTRASTIVE: dict[str, Any] = {**PICTURES, "objective": {"kind": "contrastive"}}


def with_class(changes: dict[str, Any], **more: Any) -> Spec:
    return make_spec(**changes, model__class_unit=True, **more)


def wild(spec: Spec) -> Model:
    """Weights far from zero, so that a wrong formula shows."""
    torch.manual_seed(0)
    model = make_model(spec)
    for parameter in model.parameters():
        parameter.data = torch.randn(parameter.shape) * 0.25 + (parameter.dim() < 2)
    return model.eval()


def batch_of(spec: Spec) -> Batch:
    return Batch.load(micro_batch(spec, 1), torch.device("cpu"))


@pytest.mark.parametrize("changes", [PICTURES, SOUND, JEPA, CONTRASTIVE], ids=["pixels", "sound", "jepa", "contrastive"])
def test_any_number_of_workers_gives_the_same_bits(changes: dict[str, Any]) -> None:
    spec = with_class(changes)
    alone = train_steps(Group(), spec, 3, None)
    assert set(map(str, run_group(3, train_steps, spec, 3, 1))) == {str(alone)}
    assert train_steps(Group(), make_spec(**changes), 3, None)[0] != alone[0]


def test_heads_answer_at_the_units_and_the_class_unit_is_never_left_out() -> None:
    spec = with_class(PICTURES)
    model, batch = wild(spec), batch_of(spec)
    assert batch.visible is not None
    assert model.encode(batch).shape == (2, 1 + 4, 32)
    assert model(batch)["pixels"].shape == (2, 16, 48)
    before = model(batch)["pixels"]
    with torch.no_grad():
        model.model.class_unit += 1
    assert not torch.allclose(model(batch)["pixels"], before), "units see it"
    shown = replace(batch, visible=None)
    first = model.encode(shown)[:, 0]
    for unit in (0, 15):
        x = batch.x.clone()
        x[:, unit] += 1
        assert not torch.allclose(model.encode(replace(shown, x=x))[:, 0], first), "it sees all units"


def test_the_predictor_receives_the_class_unit() -> None:
    spec = with_class(PICTURES)
    model, batch = wild(spec), batch_of(spec)
    hidden = model.encode(batch)
    other = torch.cat([hidden[:, :1] + 1, hidden[:, 1:]], 1)
    assert not torch.allclose(model.answer(batch, other)["pixels"], model.answer(batch, hidden)["pixels"])


def test_it_has_no_place_in_the_plane_and_units_keep_theirs() -> None:
    with_it, without = (wild(make_spec(**PICTURES, model__class_unit=given, model__depth=1)) for given in (True, False))
    for layers in (with_it.model, with_it.predictor):
        assert layers is not None
        assert layers.positions is not None
        assert not layers.positions[0].any()
    assert with_it.model.positions is not None
    assert torch.equal(with_it.model.positions[1:], without.model.positions)


def test_rotary_positions_by_hand() -> None:
    """The class unit has position 0, where nothing is rotated; units start at 1; visible ones keep their positions."""
    model = wild(with_class(PICTURES, model__depth=1))
    attention, layers = model.model.layers[0].self_attn, model.model
    seen: list[tuple[torch.Tensor, ...]] = []
    attention.register_forward_pre_hook(lambda module, given: seen.append(given[1]))
    batch = batch_of(with_class(PICTURES))
    model.encode(replace(batch, visible=torch.tensor([[0, 3, 7, 15], [1, 2, 3, 4]])))
    angles = [[0, 1, 4, 8, 16], [0, 2, 3, 4, 5]]
    for table, found in zip((layers.cos, layers.sin), seen[0][:2], strict=True):
        assert torch.equal(found[..., :8], table[torch.tensor(angles)][..., :8])  # what the first head's first halves get
    assert torch.equal(layers.cos[0], torch.ones(16))


def test_against_torchs_own_encoder() -> None:
    """A layer on [class, units] equals torch's own layer on them: nothing else is special about the class unit."""
    flags = {"norm": "ln", "act": "gelu", "rope_theta": None, "bias": True, "width": 32, "depth": 1, "heads": 2, "context": 16}
    spec = make_spec(**PICTURES | {"model": {**flags, "class_unit": True}})
    model, batch = wild(spec), batch_of(spec)
    mine = model.model.layers[0]
    theirs = nn.TransformerEncoderLayer(32, 2, spec.model.hidden_width, 0.0, "gelu", 1e-6, batch_first=True, norm_first=True)
    state = {f"self_attn.in_proj_{part}": torch.cat([getattr(getattr(mine.self_attn, f"{x}_proj"), part) for x in "qkv"])
             for part in ("weight", "bias")}  # fmt: skip
    pairs = {"self_attn.out_proj": mine.self_attn.o_proj, "linear1": mine.mlp.up_proj, "linear2": mine.mlp.down_proj,
             "norm1": mine.input_layernorm, "norm2": mine.post_attention_layernorm}  # fmt: skip
    state |= {f"{name}.{part}": getattr(module, part) for name, module in pairs.items() for part in ("weight", "bias")}
    theirs.load_state_dict(state)
    units = model.model.embed_values(batch.x) + model.model.positions[1:]  # type: ignore[index]
    assert batch.visible is not None
    kept = units.gather(1, batch.visible[..., None].expand(-1, -1, 32))
    h = torch.cat([model.model.class_unit.expand(2, 1, 32), kept], 1)
    assert torch.allclose(model.encode(batch), model.model.norm(theirs(h)), atol=1e-4)
    assert not torch.allclose(model.encode(batch)[:, 1:], model.model.norm(theirs(h[:, 1:])), atol=1e-2)


def test_padding_changes_nothing_and_nothing_sees_it() -> None:
    spec = with_class(SOUND)
    model, rng = wild(spec), np.random.default_rng(0)
    long, short = (rng.standard_normal((length, 6)).astype(np.float32) for length in (16, 9))
    (together,) = batches([Units(long), Units(short)])
    assert together.padded
    states = model.encode(together)
    for row, x in enumerate((long, short)):
        (alone,) = batches([Units(x)])
        assert torch.allclose(model.encode(alone)[0], states[row, : 1 + len(x)], atol=1e-4)
    other = together.x.clone()
    other[1, 9:] = 7.0
    assert torch.equal(model.encode(replace(together, x=other))[1, :10], states[1, :10])


def test_it_starts_as_the_mask_vector_does_and_does_not_decay() -> None:
    spec = with_class(PICTURES, model__width=256, model__heads=16, model__base_width=32)
    model = make_model(spec)
    initialise(model, 1)
    assert 0.8 < model.model.class_unit.std() < 1.2
    assert model.scalings["model.class_unit"] == model.scalings["predictor.mask"]
    assert model.scalings["model.class_unit"].weight_decay == 0
    assert model.scalings["model.class_unit"].lr == 1


def test_it_learns() -> None:
    trainer = make_trainer(with_class(PICTURES), Group())
    before = trainer.model.model.class_unit.clone()
    for step in range(2):
        trainer.step(step, [(step * 5 + i, micro_batch(trainer.spec, step * 5 + i)) for i in range(5)])
    assert not torch.equal(trainer.model.model.class_unit, before)


def test_teacher_targets_and_the_spread_of_features_are_of_the_units() -> None:
    trainer = make_trainer(with_class(JEPA), Group())
    assert trainer.teacher is not None
    batch = batch_of(trainer.spec)
    assert trainer.teacher.targets(batch).shape == (*batch.x.shape[:2], 32)
    given = [(i, micro_batch(trainer.spec, i)) for i in range(4)]
    found = evaluate(trainer, given).spread
    with torch.no_grad():
        by_hand = [trainer.model.encode(Batch.load(payload, torch.device("cpu")))[:, 1:].mean(1) for _, payload in given]
    directions = nn.functional.normalize(torch.cat(by_hand).double(), dim=1)
    assert found == pytest.approx(float(directions.std(0, correction=0).mean() * 32**0.5), rel=1e-4)


def test_without_one_a_run_is_the_run_it_was() -> None:
    assert "model.class_unit" not in make_spec(**PICTURES).identity()
    assert with_class(PICTURES).fingerprint() != make_spec(**PICTURES).fingerprint()
    assert "model.bias" in make_spec(**PICTURES).identity()


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({**PICTURES, "objective": {"kind": "next_patch"}}, "so next_patch, which looks back only, would see later units"),
        ({"objective": {"kind": "masked_token"}}, "a sample of text holds several documents"),
    ],
)
def test_it_is_refused_where_it_would_leak_information(changes: dict[str, Any], sentence: str) -> None:
    with pytest.raises(InputError, match=rf"model\.class_unit: .*{sentence}"):
        with_class(changes)


# Pools


def test_pools_of_units_leave_it_out_and_class_is_it_alone(tmp_path: Path) -> None:
    run = run_with_checkpoint(tmp_path, **IMAGES, model__class_unit=True)
    rng = np.random.default_rng(0)
    samples = [Units(rng.standard_normal((4, 16)).astype(np.float32)) for _ in range(3)]
    encoder = Encoder.trained(run)
    (batch,) = batches(samples)
    states = encoder(batch).numpy()
    assert states.shape == (3, 5, 32)
    assert np.array_equal(features(encoder, samples, "class"), states[:, 0])
    assert np.allclose(features(encoder, samples, "mean"), states[:, 1:].mean(1), atol=1e-6)
    assert np.array_equal(features(encoder, samples, "last"), states[:, -1])
    assert np.array_equal(features(encoder, samples, "flatten"), states[:, 1:].reshape(3, -1))
    assert features(Encoder.trained(run, "all"), samples, "class").shape == (3, 64)


def test_class_of_tokens_is_the_opening_token(tmp_path: Path) -> None:
    run = run_with_checkpoint(tmp_path, objective={"kind": "masked_token"})
    check_pool(run.spec(), "class")
    samples = [Units(np.arange(length), None, UnitShape(classes=257)) for length in (5, 9)]
    encoder = Encoder.trained(run)
    first = np.concatenate([encoder(batch)[:, 0].numpy() for batch in batches(samples)])
    assert np.array_equal(features(encoder, samples, "class"), first)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({}, "is causal, so its first unit does not see what follows; use last or mean"),
        (IMAGES, "has no class unit; use mean, or a run with model.class_unit: true"),
    ],
)
def test_class_is_refused_if_no_unit_represents_the_whole(changes: dict[str, Any], sentence: str, tmp_path: Path) -> None:
    run = run_with_checkpoint(tmp_path, **changes)
    task = {"kind": "classify", "train": {"path": "not there", "format": "files"}, "labels": {"kind": "name"}}
    with pytest.raises(InputError, match=rf"pool: class: the run's model {sentence}"):  # before it looks for the examples
        foundray.probe(run.folder.url, task_file(tmp_path, **task, labels_per_class=3, pool="class"))


def test_probing_by_the_class_unit(tmp_path: Path) -> None:
    run = run_with_checkpoint(tmp_path / "runs", **IMAGES, model__class_unit=True)
    (folder := tmp_path / "images").mkdir()
    for side in "lr":
        (folder / side).mkdir()
        for n in range(6):
            (folder / side / f"{n}.png").write_bytes(picture(120 + 9 * n, side == "l"))
    task = {"kind": "classify", "train": {"path": str(folder), "format": "files"}, "labels": {"kind": "name"}, "seeds": 1}
    found = foundray.probe(run.folder.url, task_file(tmp_path, **task, labels_per_class=3, pool="class"))
    assert found.ours == [1.0], "left and right are easy to distinguish"
    assert found.floor == [0.5], "raw values have no class unit: their mean is the same on both sides"
