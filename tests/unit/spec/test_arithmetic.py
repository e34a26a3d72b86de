"""A run's bits: the arithmetic version that it began with, and thread counts, which must not matter."""

from __future__ import annotations

import io
import json
import os
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import soundfile
import torch
import yaml
from tests.unit.files import picture
from threadpoolctl import threadpool_info, threadpool_limits

import foundray
from foundray.cli import main
from foundray.contract import MODALITIES, OBJECTIVES, Plan, Units, installed
from foundray.data.prepare.manifest import Manifest, Prepared, Shard
from foundray.data.prepare.recipe import prepared_folder
from foundray.data.stream.batch import packed
from foundray.data.stream.plan import StreamPlan, plan_for, read_micro_batches
from foundray.errors import InputError
from foundray.evaluation.encoder import trained_weights
from foundray.host.threads import one_blas_thread, torch_threads
from foundray.inspection.auditing import audit
from foundray.runs.checkpoints import Checkpoint
from foundray.runs.run import Run
from foundray.spec import Spec
from foundray.spec.arithmetic import ENGINE, ENGINE_HISTORY, differing
from foundray.spec.loading import parse_spec
from foundray.storage import Store
from foundray.testing.groups import THREADS, run_group
from foundray.testing.runs import run_with_checkpoint
from foundray.testing.specs import IMAGES, make_spec, small_spec
from foundray.testing.trainers import make_trainer, save_checkpoint
from foundray.training import driver
from foundray.training.checkpoints.checkpoint import MANIFEST, load
from foundray.training.checkpoints.unusable import Unusable
from foundray.training.collectives.group import Group
from foundray.training.warm_start.parent import find_start
from foundray.vectors.recipe import Recipe
from foundray.vectors.worker import Embedder, Task
from foundray_modalities.audio import Audio
from foundray_modalities.image import Image
from foundray_objectives.masked_pixel import MaskedPixel

CHANGE = "pixels are scaled in float64"
OTHERWISE = "version 1 of the arithmetic of the modality image, where this Foundray has 2"


@pytest.fixture(autouse=True)
def version_1(monkeypatch: pytest.MonkeyPatch) -> None:
    """Start images and masked pixels at version 1, whatever is installed."""
    for part in (Image, MaskedPixel):
        monkeypatch.setattr(part, "arithmetic", 1)
        monkeypatch.setattr(part, "arithmetic_history", {})


@pytest.fixture
def run(version_1: None, tmp_path: Path) -> Run:
    """A run on images from before arithmetic versions existed: its folder names none."""
    return run_with_checkpoint(tmp_path / "runs", **IMAGES)


@pytest.fixture
def later(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """Raise the version of images after the run has begun."""
    monkeypatch.setattr(Image, "arithmetic", 2)
    monkeypatch.setattr(Image, "arithmetic_history", {2: CHANGE})


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """A folder of bright and dark images."""
    (made := tmp_path / "images").mkdir()
    for name, left in (("l", True), ("r", False)):
        for number in range(6):
            (made / f"{name}_{number}.png").write_bytes(picture(120 + number, left))
    return made


def fields_of(images: Path, **changes: Any) -> dict[str, Any]:
    sources = [{"path": str(images), "format": "files"}]
    return small_spec(images, images.parent / "runs", **{**IMAGES, "data__sources": sources, **changes})


def begun_with(run: Run, **numbers: int) -> Run:
    file = Path(run.folder.path) / "data.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "arithmetic": numbers}))
    return Run(run.folder)


def files_of(run: Run) -> dict[str, int]:
    return {str(path): path.stat().st_mtime_ns for path in Path(run.folder.path).rglob("*")}


# The version


def test_a_part_that_was_never_changed_is_not_in_the_fingerprint() -> None:
    spec = make_spec(**IMAGES)
    assert spec.arithmetic == {"engine": 1, "modality": 1, "objective": 1}
    assert not [name for name in spec.identity() if name.startswith("arithmetic")]


def test_a_change_concerns_the_runs_that_use_what_changed(monkeypatch: pytest.MonkeyPatch) -> None:
    pictures, texts = make_spec(**IMAGES), make_spec()
    fingerprints, of_texts = {pictures.fingerprint()}, texts.fingerprint()
    monkeypatch.setattr(Image, "arithmetic", 2)
    assert pictures.identity()["arithmetic.modality"] == 2
    fingerprints.add(pictures.fingerprint())
    monkeypatch.setattr(MaskedPixel, "arithmetic", 3)
    fingerprints.add(pictures.fingerprint())
    assert len(fingerprints) == 3
    assert texts.fingerprint() == of_texts
    monkeypatch.setattr("foundray.spec.arithmetic.ENGINE", 2)
    assert texts.identity()["arithmetic.engine"] == 2
    assert texts.fingerprint() != of_texts


@pytest.mark.parametrize(("group", "kind"), [(group, kind) for group in (MODALITIES, OBJECTIVES) for kind in installed(group)])
def test_every_version_says_what_it_changed(group: str, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    part = entry_points(group=group)[kind].load()
    assert set(part.arithmetic_history) == set(range(2, part.arithmetic + 1))
    assert all(part.arithmetic_history.values())


def test_every_version_of_the_engine_says_what_it_changed() -> None:
    assert set(ENGINE_HISTORY) == set(range(2, ENGINE + 1))


@pytest.mark.usefixtures("later")
@pytest.mark.parametrize("verb", ["resume", "train"])
def test_a_run_begun_with_another_is_refused_by_one_sentence(verb: str, run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    before = files_of(run)
    with pytest.raises(SystemExit) as ended:
        main([verb, run.folder.url if verb == "resume" else f"{run.folder.path}/spec.yaml"])
    output = capsys.readouterr()
    assert (ended.value.code, output.out) == (2, "")
    assert output.err == (
        f"foundray: the run {run.folder} was begun with {OTHERWISE} (since then {CHANGE}), so the rest of it would be computed "
        "by other rules: finish it with the Foundray that began it, or give this run another name\n"
    )
    assert files_of(run) == before


@pytest.mark.parametrize(
    ("numbers", "message"),
    [
        ({"modality": 3, "objective": 1}, "version 3 of the arithmetic of the modality image"),
        ({"objective": 2}, "version 2 of the arithmetic of the objective masked_pixel"),
        ({"engine": 4, "shuffling": 1}, "version 4 of the arithmetic of the engine"),
        ({"shuffling": 2}, "version 2 of the arithmetic of shuffling"),
    ],
)
def test_a_run_begun_with_a_version_that_is_not_known_yet_is_refused(numbers: dict[str, int], message: str, run: Run) -> None:
    begun = begun_with(run, **numbers)
    with pytest.raises(InputError) as refused:
        driver.resume(begun, begun.spec(), lambda line: None)
    assert f"was begun with {message}, where this Foundray knows none above 1, so the rest" in str(refused.value)


def test_all_changes_since_then_are_listed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "arithmetic", 4)
    monkeypatch.setattr(Image, "arithmetic_history", {2: "a is b", 3: "c is d", 4: "e is f"})
    spec = make_spec(**IMAGES)
    assert differing({"modality": 2}, spec).endswith("image, where this Foundray has 4 (since then c is d, e is f)")
    assert differing({"modality": 4}, spec) == ""


@pytest.mark.usefixtures("later")
def test_an_earlier_run_is_still_read(run: Run, images: Path, tmp_path: Path) -> None:
    folder, old = run.folder.url, run.spec()
    assert old.arithmetic == {"engine": 1, "modality": 1, "objective": 1}
    made_by = json.loads((run.checkpoints.children()[0] / MANIFEST).read_text())["fingerprint"]
    again = parse_spec((run.folder / "spec.yaml").read_text(), "a new run of the same spec")
    assert old.fingerprint() == made_by != again.fingerprint()
    assert foundray.status(folder).state == "new"
    labels = {"kind": "name", "pattern": r"/(?P<label>[lr])_\d\.png"}
    task = {"kind": "classify", "train": {"path": str(images), "format": "files"}, "labels": labels, "labels_per_class": 3}
    (tmp_path / "task.yaml").write_text(yaml.safe_dump(task))
    assert foundray.probe(folder, tmp_path / "task.yaml").ours


@pytest.mark.usefixtures("later")
def test_samples_of_an_earlier_run_are_not_remade_by_other_rules(run: Run) -> None:
    plan = StreamPlan(run.folder.url, "{}", (1.0,), 0.1, 1, 2, "{}")
    with pytest.raises(InputError, match=rf"was begun with {OTHERWISE} .*, so its samples would be different here: audit it"):
        audit(run, plan)


def test_a_run_that_began_with_the_installed_versions_continues(run: Run) -> None:
    spec = run.spec()
    begun = begun_with(run, **spec.arithmetic)
    assert begun.spec() == spec
    begun.check_arithmetic()
    begun_with(run, engine=1, shuffling=1).check_arithmetic()
    assert Spec.model_validate_json(spec.model_dump_json()) == spec, "as sent to workers"


def test_a_damaged_record_is_one_sentence(run: Run) -> None:
    (run.folder / "data.json").write_text('{"manifest": {')
    with pytest.raises(InputError, match=r"data\.json is damaged: it is not a JSON object"):
        Run(run.folder).spec()


def test_a_checkpoint_says_what_it_was_made_with(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spec, folder = make_spec(**IMAGES), Store.at(tmp_path)
    trainer = make_trainer(spec, Group())
    save_checkpoint(folder, trainer, 3, spec.fingerprint(), keep=3)
    assert load(folder, trainer, Checkpoint(3, ""), (spec.fingerprint(),)).step == 3
    monkeypatch.setattr(MaskedPixel, "arithmetic", 2)
    with pytest.raises(Unusable, match="step-00000003 was made with version 1 of the arithmetic of the objective masked_pixel"):
        load(folder, trainer, Checkpoint(3, ""), (spec.fingerprint(),))


@pytest.mark.usefixtures("later")
def test_weights_are_only_weights(run: Run, images: Path) -> None:
    spec = parse_spec(yaml.safe_dump(fields_of(images, name="child", init_from=run.folder.url)), "test")
    start = find_start(spec)
    assert start.summary().endswith(f"; it was begun with {OTHERWISE} (since then {CHANGE})")
    assert start.spec.arithmetic["modality"] == 2


@pytest.mark.usefixtures("later")
def test_data_is_prepared_again_and_earlier_data_stays(images: Path) -> None:
    spec = parse_spec(yaml.safe_dump(fields_of(images)), "test")
    now, recipe, _ = prepared_folder(spec)
    before, old, _ = prepared_folder(spec.begun_with({}))
    assert now != before
    assert recipe.pop("arithmetic") == {"modality": 2}
    assert recipe == old


@pytest.mark.usefixtures("later")
def test_a_search_begun_with_another_is_refused(images: Path) -> None:
    from foundray.tuning.search.driver import folder_of, tune  # not above: a group's processes import this module

    text = yaml.safe_dump(fields_of(images))
    spec = parse_spec(text, "test")
    (folder_of(spec) / "search.json").write_text(json.dumps(spec.begun_with({}).identity()))
    with pytest.raises(
        InputError, match=rf"the search in .* was begun with {OTHERWISE} \(since then {CHANGE}\), so its trials"
    ):
        tune(spec, text, {}, lambda line: None, False)


def test_vectors_begun_with_another_are_not_continued() -> None:
    def recipe(**more: Any) -> Recipe:
        fields: dict[str, Any] = {
            "run": "a", "step": 3, "weights_sha256": "0", "layer": "last", "pool": "mean", "normalise": False, "width": 32,
            "modality": "image", "source": {"path": "x", "format": "files"}, "files": {}, "block_rows": 1, "batch_units": 1,
            "device": "cpu", "threads": 1,
        }  # fmt: skip
        return Recipe(**fields, **more)

    recipe().check_same(Store.at("out"), recipe(arithmetic={"engine": 1, "modality": 1}))
    with pytest.raises(
        InputError, match=r"vectors of something else: arithmetic\.modality was 1 and is 2; give another folder"
    ):
        recipe().check_same(Store.at("out"), recipe(arithmetic={"engine": 1, "modality": 2}))


# Threads


def threads(group: Group) -> tuple[int, set[int]]:
    """Threads of torch, and of NumPy's BLAS libraries."""
    return torch.get_num_threads(), {pool["num_threads"] for pool in threadpool_info() if pool["user_api"] == "blas"}


def test_all_processes_of_the_tests_compute_with_as_many_threads() -> None:
    assert [threads(Group()), *run_group(2, threads)] == [(THREADS, {THREADS})] * 3
    assert os.environ["OMP_NUM_THREADS"] == str(THREADS), "Ray's too"


def test_the_number_of_threads_is_restored() -> None:
    with torch_threads(3), threadpool_limits(3, user_api="blas"):
        with torch_threads(2), one_blas_thread():
            assert threads(Group()) == (2, {1})
        assert threads(Group()) == (3, {3})


def recordings(folder: Path) -> StreamPlan:
    """A plan of eight recordings of two seconds, long enough for BLAS to split their products among threads."""
    folder.mkdir()
    rng, contents = np.random.default_rng(0), []
    for _ in range(8):
        soundfile.write(file := io.BytesIO(), rng.normal(0, 0.1, 32_000), 16_000, format="flac")
        contents.append(file.getvalue())
    pq.write_table(pa.table({"audio": contents}), folder / "0.parquet")
    shard = Shard(
        file="0.parquet", source=0, inputs=[], documents=8, rows=8, tokens=8, text_bytes=0, bytes=1, sha256="", quarantined=0
    )
    manifest = Manifest(
        name="x", recipe={}, recipe_sha256="", context=100, vocabulary=0, document_id=-1, tokenizer_sha256="",
        rows=8, tokens=8, quarantined=0, rows_per_group=8, shards=[shard],
    )  # fmt: skip
    data = {"sources": [{"path": "x", "format": "files"}], "modality": {"kind": "audio"}, "holdout": 0.2}
    spec = make_spec(data=data, objective={"kind": "masked_frame"}, model__context=100)
    return plan_for(Prepared(Store.at(folder), manifest), spec)


def test_units_do_not_depend_on_the_threads_of_the_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Products in float64 do, but few rounded values show it, so the test checks the thread counts, too."""
    plan, seen, units = recordings(tmp_path / "data"), [], Audio.units

    def watched(*given: Any) -> Units:
        seen.append(threads(Group())[1])
        return units(*given)

    monkeypatch.setattr(Audio, "units", watched)
    made = []
    for count in (1, 2, 4):
        with threadpool_limits(count, user_api="blas"):
            made.append(list(read_micro_batches(plan, 0, 3)))
            assert threads(Group())[1] == {count}
    assert made[0] == made[1] == made[2]
    assert seen == [{1}] * 3 * 3 * 2


def test_vectors_are_computed_with_the_threads_of_their_record(tmp_path: Path) -> None:
    run, seen = run_with_checkpoint(tmp_path), []
    rng, shape = np.random.default_rng(0), run.spec().unit_shape(257)
    batch = packed([Plan(Units(rng.integers(0, 257, 32), None, shape), ()) for _ in range(8)])
    weights = trained_weights(run)[1]
    for recorded in (1, 2):
        embed = Embedder(Task(run.spec(), 257, "last", "mean", False, "cpu", recorded), weights)
        embed.encoder.model.model.norm.register_forward_hook(lambda *given: seen.append(torch.get_num_threads()))
        vectors = []
        for here in (1, 2, 3):
            with torch_threads(here):
                vectors.append(embed(batch))
                assert torch.get_num_threads() == here
        assert all(np.array_equal(other, vectors[0]) for other in vectors[1:])
    assert seen == [1, 1, 1, 2, 2, 2]
