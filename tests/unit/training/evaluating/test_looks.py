"""Reconstructions: the same samples and pictures for any number of workers, from input to a file and to what is shown of it."""

from __future__ import annotations

import io
import os
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tests.unit.objectives.specs import SPECS

from foundray.contract import Units
from foundray.contract import Values as ValuesModality
from foundray.data.stream.batch import packed as packed_plans
from foundray.errors import InputError
from foundray.reports.reconstructed import reconstructed
from foundray.runs.reconstructions import Reconstruction, file_of, packed, read_reconstructions, unpacked
from foundray.runs.run import Run, event
from foundray.spec import Spec
from foundray.storage import Store
from foundray.testing.groups import run_group
from foundray.testing.specs import make_spec
from foundray.testing.trainers import make_team_trainer, make_trainer, micro_batch
from foundray.training.collectives.group import Group
from foundray.training.evaluating.evaluation import evaluate
from foundray.training.evaluating.looks import Looks
from foundray.training.telemetry.curves import Curves
from foundray.wording.rasters import picture_png, side_by_side

REBUILDING = ["masked_patch", "masked_pixel", "next_frame", "next_patch"]


def looked_at(group: Group, spec: Spec, run: str, team: int | None = None, batches: int = 5) -> dict[str, int]:
    """Look at predictions after a step; before it, heads of zeros predict the same for every sample."""
    trainer = make_team_trainer(spec, group, team) if team else make_trainer(spec, group)
    trainer.step(0, [(at, micro_batch(spec, at)) for at in range(group.rank, spec.train.micro_batches, group.world)])
    looks = Looks.of(spec, trainer, batches)
    evaluate(trainer, [(at, micro_batch(spec, at)) for at in range(group.rank, batches, group.world)], looks=looks)
    assert looks
    return looks.kept(Store.at(run), 20)


@pytest.mark.parametrize("kind", REBUILDING)
def test_the_file_is_the_same_for_any_workers(kind: str, tmp_path: Path) -> None:
    """For one, two and three, and for teams: one and two of two."""
    spec, contents = SPECS[kind], []
    assert looked_at(Group(), spec, str(tmp_path / "1")) == {"reconstructions": 3}
    for world, team in ((2, None), (3, None), (2, 2), (4, 2)):
        run = tmp_path / f"{world}-{team}"
        assert run_group(world, looked_at, spec, str(run), team) == [{"reconstructions": 3}] * world
        contents.append(file_of(Store.at(run), 20).read_bytes())
    content = file_of(Store.at(tmp_path / "1"), 20).read_bytes()
    assert set(contents) == {content}
    assert all((one.shown is None) == kind.startswith("next") for one in unpacked(content).values())


def test_others_have_nothing_to_look_at() -> None:
    without = [kind for kind, spec in SPECS.items() if Looks.of(spec, make_trainer(spec), 4) is None]
    assert sorted({*SPECS} - {*without}) == REBUILDING
    off = make_spec(**{**fields_of("masked_patch"), "evaluate": {"reconstructions": 0}})
    assert Looks.of(off, make_trainer(off), 4) is None


def fields_of(kind: str) -> dict[str, Any]:
    spec = SPECS[kind]
    modality = spec.data.modality.model_dump(mode="json")
    files = {"data__sources": [{"path": "x", "format": "files"}]}
    return {"objective": {"kind": kind}, "data__modality": modality, "model__context": spec.model.context, **files}


@pytest.mark.parametrize("kind", REBUILDING)
def test_perfect_answers_give_the_input_back(kind: str) -> None:
    spec = SPECS[kind]
    objective, shape = spec.objective.build(), spec.unit_shape(0)
    rng = np.random.default_rng(0)
    x = rng.standard_normal((spec.model.context, shape.width)).astype(np.float32)
    plan = objective.plan(Units(x, None, shape), rng)
    [target] = plan.targets
    assert target.values is not None and target.loss_mask is not None
    rebuilt = objective.rebuilt(x, {target.head: target.values}, target.loss_mask)
    assert rebuilt == pytest.approx(x, abs=1e-5)
    wrong = objective.rebuilt(x, {target.head: target.values + 1}, target.loss_mask)
    assert (wrong != pytest.approx(x, abs=1e-5)) and (np.abs(wrong - x).max(-1) > 0.01).sum() == target.loss_mask.sum()


@pytest.mark.parametrize("channels", [1, 3])
def test_a_picture_is_made_of_its_patches(channels: int) -> None:
    modality = make_spec(**{**fields_of("next_patch"), "data__modality__channels": channels}).data.modality.build()
    assert isinstance(modality, ValuesModality)
    colours = np.random.default_rng(0).integers(0, 256, (16, 16, 3), np.uint8)
    image = Image.fromarray(colours if channels == 3 else colours[..., 0])
    image.save(stream := io.BytesIO(), "PNG")
    units = modality.units({"image": stream.getvalue()}, 16, None)
    found = modality.picture(units.x)
    assert found is not None and found * 255 == pytest.approx(np.asarray(image, np.float32), abs=1e-3)
    units.x[0] = np.nan  # the first patch is hidden
    hidden = modality.picture(units.x)
    assert hidden is not None and np.isnan(hidden[:4, :4]).all() and np.isfinite(hidden[4:]).all()


def test_padding_is_not_shown(tmp_path: Path) -> None:
    spec = SPECS["next_frame"]
    objective, shape, rng = spec.objective.build(), spec.unit_shape(0), np.random.default_rng(0)
    plans = [objective.plan(Units(rng.standard_normal((n, 8)).astype(np.float32), None, shape), rng) for n in (10, 6)]
    trainer = make_trainer(spec)
    looks = Looks.of(spec, trainer, 1)
    assert looks
    evaluate(trainer, [(0, packed_plans(plans))], looks=looks)
    assert looks.kept(Store.at(tmp_path), 5) == {"reconstructions": 2}, "the micro-batch has two samples"
    assert [one.input.shape for one in read_reconstructions(Store.at(tmp_path), 5)] == [(8, 10), (8, 6)]


def test_storage_that_refuses_costs_the_file_alone(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "reconstructions").write_text("not a folder")
    assert looked_at(Group(), SPECS["masked_patch"], str(tmp_path / "run")) == {"reconstructions": 3}
    assert read_reconstructions(Store.at(tmp_path / "run"), 20) == []


def test_a_damaged_file_is_none(tmp_path: Path) -> None:
    file = file_of(Store.at(tmp_path), 7)
    for content in (b"", os.urandom(50), packed({0: Reconstruction(np.zeros(4), np.zeros(4), None)})[:-1]):
        file.write_bytes(content)
        assert read_reconstructions(Store.at(tmp_path), 7) == []
        with pytest.raises(InputError, match="damaged"):
            unpacked(content)


def test_they_are_tensorboards_images_and_the_reports(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    picture = rng.random((8, 8, 3))
    seen = np.where(np.arange(8)[:, None, None] < 4, picture, np.nan)
    curve = rng.standard_normal(1500)
    one = Reconstruction(picture, picture / 2, seen)
    other = Reconstruction(curve, curve * 0.5, np.where(np.arange(1500) // 500 == 1, np.nan, curve))
    file_of(Store.at(tmp_path), 40).write_bytes(packed({0: one, 1: other}))
    curves = Curves(Run(Store.at(tmp_path)), [])
    for step in (20, 40):  # the first one's file was not written in time
        curves.add_event(event("evaluated", step=step, val_loss=1.0, reconstructions=2))
    curves.close()
    assert not curves.messages
    found = EventAccumulator(str(tmp_path / "tensorboard"))
    found.Reload()
    assert found.Tags()["images"] == ["reconstructions/1", "reconstructions/2"]
    for tag in found.Tags()["images"]:
        [image] = found.Images(tag)
        assert image.step == 40
        assert struct.unpack(">II", image.encoded_image_string[16:24]) == (image.width, image.height)
    [pictures, plots] = reconstructed({40: read_reconstructions(Store.at(tmp_path), 40)})
    assert [one.label for one in pictures] == ["input", "what the model sees", "step 40"]
    assert [one.label for one in plots] == ["step 40"]
    assert plots[0].picture.count("<polyline") == 2 and plots[0].picture.count("<rect") == 1
    assert reconstructed({}) == []


def test_what_is_hidden_is_transparent_and_wide_pictures_lie_below_each_other() -> None:
    values = np.array([[0.0, np.nan], [0.5, 1.0]])
    opened = np.asarray(Image.open(io.BytesIO(picture_png(values))))
    assert opened[..., 3].tolist() == [[255, 0], [255, 255]]
    assert opened[1, :, 0].tolist() == [128, 255]
    assert side_by_side([values, values])[1:] == (2, 6)
    assert side_by_side([np.zeros((4, 40)), np.zeros((4, 40))])[1:] == (10, 40)
