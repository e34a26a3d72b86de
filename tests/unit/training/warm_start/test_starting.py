"""A run that starts from another's weights: which weights these are, whether they fit, and which are taken."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from foundray.data.tokenizers.tokenizer import make_bytes, make_char
from foundray.errors import InputError
from foundray.inspection.describe import derived
from foundray.jobs.submit import job_of
from foundray.jobs.travel import travelling
from foundray.model.model import Model, initialise
from foundray.runs.checkpoints import Checkpoint
from foundray.runs.run import Run
from foundray.spec import InitFromConfig, Spec
from foundray.spec.loading import load_spec, parse_spec
from foundray.storage import Store
from foundray.testing.groups import run_group
from foundray.testing.runs import run_with_records
from foundray.testing.specs import make_spec, small_spec, write_spec
from foundray.testing.trainers import VOCABULARY, make_model, make_trainer, micro_batch, save_checkpoint
from foundray.training.checkpoints.checkpoint import load, load_states, sha256_of, weights_sha256
from foundray.training.collectives.group import Group
from foundray.training.step.trainer import Trainer
from foundray.training.warm_start.parent import Start, find_start
from foundray.training.warm_start.starting import START, begin, fit_of, read_start, take, write_start

JEPA = {"kind": "joint_embedding", "start_momentum": 0.9}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A run with checkpoints of steps 4 and 8, of random weights."""
    return make_parent(tmp_path_factory.mktemp("made"))


@pytest.fixture
def parent(made: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """A copy of it in the current folder's runs/, which a test may change."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "text.txt").write_text("some text")
    shutil.copytree(made.folder.path, tmp_path / "runs" / "parent")
    return Run.open("parent")


def make_parent(folder: Path, **changes: Any) -> Run:
    run = run_with_records(folder / "runs", name="parent", **changes)
    (run.folder / "tokenizer.json").write_text(make_bytes().to_json())
    spec = run.spec()
    for step in (4, 8):
        model = Model(spec.model, spec.objective.build(), spec.unit_shape(257))
        initialise(model, step)
        with torch.no_grad():  # heads too
            model.get_submodule(next(iter(model.heads))).weight.normal_(generator=torch.Generator().manual_seed(step))
        trainer = Trainer(spec, model, spec.objective.build())
        if trainer.teacher:
            trainer.teacher.buffer.add_(step)
        trainer.spikes.restore([(step, 2.0)], step)
        save_checkpoint(run.checkpoints, trainer, step, spec.fingerprint(), keep=3)
    return run


def child(**changes: Any) -> Spec:
    fields = small_spec(Path("text.txt"), Path("runs"), **{"name": "child", "init_from": "runs/parent", **changes})
    return parse_spec(yaml.safe_dump(fields), "test")


def refusal(**changes: Any) -> str:
    with pytest.raises(InputError) as refused:
        find_start(child(**changes))
    assert "\n" not in str(refused.value)
    return str(refused.value)


# Which weights


def test_the_newest_checkpoint_or_the_one_that_is_named(parent: Run) -> None:
    newest, named = find_start(child()), find_start(child(init_from={"run": "runs/parent", "step": 4}))
    assert (newest.place.step, named.place.step) == (8, 4)
    assert newest.place.run == parent.folder.url
    assert newest.place.weights_sha256 == sha256_of(load_states(parent.checkpoints, ("master",))[1]["master"])
    assert newest.place.weights_sha256 != named.place.weights_sha256
    assert newest.summary() == f"21 of 21 parameters from {parent.folder} at step 8"
    assert find_start(child(init_from="parent")).spec.identity() == newest.spec.identity(), "a name in runs/ is enough"


def test_a_damaged_checkpoint_is_passed_over_unless_it_is_named(parent: Run) -> None:
    next(Path(parent.folder.path).glob("checkpoints/step-00000008/*.safetensors")).write_bytes(b"none")
    assert find_start(child()).place.step == 4
    assert "holds no usable checkpoint of step 8: step-00000008 is damaged" in refusal(
        init_from={"run": "runs/parent", "step": 8}
    )


def test_the_hash_decides_and_the_place_does_not(parent: Run) -> None:
    scratch, open_, settled = child(init_from=None), child(), find_start(child()).spec
    elsewhere = settled.init_from.model_copy(update={"run": "elsewhere", "step": None})
    moved = settled.model_copy(update={"init_from": elsewhere})
    other = find_start(child(init_from={"run": "runs/parent", "step": 4})).spec
    assert moved.fingerprint() == settled.fingerprint()
    assert len({spec.fingerprint() for spec in (scratch, open_, settled, other)}) == 4
    assert scratch.fingerprint() == parse_spec(yaml.safe_dump(small_spec(Path("text.txt"), Path("y"))), "x").fingerprint()
    assert parse_spec(settled.to_yaml(), "stored") == settled


def test_a_run_that_has_begun_keeps_its_start_when_its_parent_continues(parent: Run, tmp_path: Path) -> None:
    begun = find_start(child(init_from={"run": "runs/parent", "step": 4})).spec.init_from
    run = run_with_records(tmp_path / "runs", name="child", source=f"{tmp_path}/text.txt", init_from=begun.model_dump())
    run.check_same(child())
    assert run.as_begun(child()).init_from == begun, "though step 8 is there now"
    assert run.as_begun(child(init_from="parent")).init_from == begun
    assert run.as_begun(child(init_from={"run": "x", "weights_sha256": begun.weights_sha256})).init_from == begun
    assert run.spec().init_from == begun
    assert f"the weights of {parent.folder} at step 4" in derived(run.as_begun(child()))["init_from"]
    for other, said in (
        (None, f"init_from.weights_sha256 was {begun.weights_sha256} and is not set"),
        ("runs/other", "and is that of runs/other"),
        ({"run": "runs/parent", "step": 8}, "and is that of runs/parent at step 8"),
        ({"run": "runs/parent", "weights_sha256": "0" * 64}, f"and is {'0' * 64}"),
    ):
        with pytest.raises(InputError, match=r"made by another spec: init_from") as refused:
            run.check_same(child(init_from=other))
        assert said in str(refused.value)


def test_a_run_from_scratch_is_another_one(parent: Run, tmp_path: Path) -> None:
    run = run_with_records(tmp_path / "runs", name="child", source=f"{tmp_path}/text.txt")
    with pytest.raises(InputError, match=r"init_from.weights_sha256 was not set and is that of runs/parent"):
        run.check_same(child())


# What does not fit


def test_what_is_no_parent_is_refused(parent: Run, tmp_path: Path) -> None:
    assert "init_from: none is not a run's folder" in refusal(init_from="none")
    assert "of step 5; it holds those of steps 4, 8" in refusal(init_from={"run": "parent", "step": 5})
    new = run_with_records(tmp_path / "runs", name="new")
    (new.folder / "tokenizer.json").write_text(make_bytes().to_json())
    assert "holds no usable checkpoint yet" in refusal(init_from="new")
    assert "is this run itself; give this one another name" in refusal(name="parent")
    have = find_start(child()).place.weights_sha256
    said = refusal(init_from={"run": "parent", "weights_sha256": "0" * 64})
    assert f"at step 8 is {have}, not {'0' * 64}" in said
    assert "since not both runs have a teacher" in refusal(init_from={"run": "parent", "teacher_sha256": "0" * 64})
    with pytest.raises(InputError, match=r"init_from.stpe is not a field .did you mean 'step'"):
        child(init_from={"run": "parent", "stpe": 3})


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"model__width": 64}, ["input_layernorm.weight is [32] there and [64] here", "set model.width: 32 as there"]),
        ({"model__depth": 3}, ["model.layers.2.", "missing there and [32] here", "set model.depth: 2 as there"]),
        ({"model__depth": 1}, ["model.layers.1.", "here", "set model.depth: 2 as there"]),
        ({"model__hidden": 64}, ["gate_proj.weight is [96, 32] there and [64, 32] here", "set model.hidden: 96 as there"]),
        ({"model__bias": True}, ["bias is missing there", "set model.bias: false as there"]),
        ({"model__heads": 4}, ["would compute something else", "set model.heads: 2 as there"]),
        ({"model__norm": "ln"}, ["set model.norm: \"rms\" as there"]),
        ({"model__base_width": 16}, ["would compute something else", "set model.base_width: null as there"]),
        ({"model__base_depth": 1}, ["would compute something else", "set model.base_depth: null as there"]),
    ],
)  # fmt: skip
def test_another_network_is_refused_with_what_would_be_right(changes: dict[str, Any], said: list[str], parent: Run) -> None:
    refused = refusal(**changes)
    assert all(words in refused for words in said), refused


def test_what_may_differ(parent: Run) -> None:
    for changes in (
        {"model__context": 64, "optimizer__lr": 1.0, "seed": 4}, {"model__base_width": 32, "model__base_depth": 2},
        {"model__hidden": 96},
    ):  # fmt: skip
        assert find_start(child(**changes)).summary().endswith("at step 8")
    assert find_start(child(model__rope_theta=5e5)).summary().endswith("; model.rope_theta was 10000.0 there and is 500000.0")


def test_other_tokens_are_refused(parent: Run, tmp_path: Path) -> None:
    file = tmp_path / "tokenizer.json"
    file.write_text(make_char("some text").to_json())
    right = f"set data.tokenizer: {{kind: file, path: {parent.folder}/tokenizer.json}}"
    assert right in refusal(data__tokenizer={"kind": "file", "path": str(file)})
    own = {"kind": "file", "path": f"{parent.folder}/tokenizer.json"}
    assert find_start(child(data__tokenizer=own)).fit.misfits == ()
    dna = {"data__modality": {"kind": "dna"}, "data__sources": [{"path": "text.txt", "format": "fasta"}]}
    assert "its data.modality is text, and this one's dna" in refusal(**dna)
    values = {
        "data__modality": {"kind": "image", "size": 8, "patch": 4}, "data__sources": [{"path": ".", "format": "files"}],
        "model__context": 4, "objective": {"kind": "masked_pixel"},
    }  # fmt: skip
    (tmp_path / "picture.png").write_bytes(b"")
    assert "one reads tokens and the other values" in refusal(**values)


def test_searches_refuse_a_start(parent: Run) -> None:
    # Not above: the processes of a group import this module, and these import Ray Tune.
    from foundray.tuning.ladder_forecast import forecast_from_ladder
    from foundray.tuning.search.driver import tune
    from foundray.tuning.transfer.coordcheck import coordcheck
    from foundray.tuning.transfer.transfer import transfer

    spec, silent = child(), lambda line: None
    for verb, call in (
        ("tune", lambda: tune(spec, "", {}, silent, False)),
        ("coordcheck", lambda: coordcheck(spec, [16, 32], [], 2, silent)),
        ("transfer", lambda: transfer(spec, [16, 32], [1e-3, 2e-3, 3e-3], 1, 2, silent)),
        ("a ladder", lambda: forecast_from_ladder(["runs/parent"], None, spec, None, silent)),
    ):
        with pytest.raises(InputError, match=f"init_from: {verb} .*--set init_from=null"):
            call()
    file = write_spec(Path(), small_spec(Path("text.txt"), Path("runs"), init_from="runs/parent"))
    with pytest.raises(InputError, match=r"init_from: tune"):
        job_of("tune", str(file), {}, on_this_machine=True, as_json=False)


def test_a_start_travels(parent: Run, tmp_path: Path) -> None:
    file = write_spec(Path(), small_spec(Path("text.txt"), Path("runs"), name="child", init_from="runs/parent"))
    there, flags = travelling(str(file), {}, on_this_machine=True)
    assert there.init_from == InitFromConfig(run=f"{tmp_path}/runs/parent")
    assert f"""--set 'init_from={{"run": "{tmp_path}/runs/parent"}}'""" in flags
    named, _ = travelling(str(file), {"init_from": {"run": "runs/parent"}, "init_from.step": 4}, on_this_machine=True)
    assert named.init_from == InitFromConfig(run=f"{tmp_path}/runs/parent", step=4)
    absolute = {"storage": "/runs", "data.sources.0.path": "/text.txt"}
    with pytest.raises(InputError, match=r"init_from.run is runs/parent, which the cluster's nodes do not know"):
        travelling(str(file), absolute, on_this_machine=False)


def test_a_dry_run_reports_it(parent: Run) -> None:
    facts, start = derived(child()), find_start(child())
    assert facts["init_from"] == f"{start.summary()}; SHA-256 {start.place.weights_sha256}"
    assert facts["fingerprint"] == start.spec.fingerprint() != child().fingerprint()
    assert "init_from" not in derived(child(init_from=None))


# What is taken


def started(start: Start, folder: Path, group: Group | None = None) -> Trainer:
    """The run's trainer, made as a worker does."""
    start.keep(Run(Store.at(folder)))
    spec = start.spec
    model = Model(spec.model, spec.objective.build(), spec.unit_shape(start.classes))
    trainer = Trainer(spec, model, spec.objective.build(), group)
    trainer.initialise()
    begin(trainer, Store.at(folder), start.place, start.classes)
    return trainer


def test_weights_are_taken_and_the_optimizer_is_new(parent: Run, tmp_path: Path) -> None:
    start = find_start(child())
    trainer = started(start, tmp_path / "new")
    assert weights_sha256(trainer.weights()) == start.place.weights_sha256
    fresh = make_trainer(make_spec(), Group())
    known = fresh.optimizer.tensors()
    sizes = {name: tensor[:8].tolist() for name, tensor in known.items()}
    assert {name: tensor[:8].tolist() for name, tensor in trainer.optimizer.tensors().items()} == sizes
    assert trainer.spikes.window() == (), "nor does it judge its losses by the parent's"
    manifest = load(parent.checkpoints, trainer, Checkpoint(8, ""), (parent.spec().fingerprint(),))
    assert manifest.losses == [(8, 2.0)], "which are there"


def test_another_objective_takes_the_backbone(parent: Run, tmp_path: Path) -> None:
    start = find_start(child(objective={"kind": "masked_token"}))
    assert start.fit.new == ("model.mask",)
    trainer = started(start, tmp_path / "masked")
    there = load_states(parent.checkpoints, ("master",))[1]["master"]
    mine = trainer.flat.named()
    assert all(torch.equal(mine[name], there[name]) for name in there)
    assert mine["model.mask"].std() > 0.5, "as usual"


def test_ids_of_an_objectives_own_are_new_rows(parent: Run, tmp_path: Path) -> None:
    start = find_start(child(objective={"kind": "fill_in_middle"}))
    assert start.summary().startswith("21 of 21 parameters")
    assert set(start.fit.new) == {"model.embed_tokens.weight (rows from 257)", "lm_head.weight (rows from 257)"}
    trainer = started(start, tmp_path / "middle")
    there, mine = load_states(parent.checkpoints, ("master",))[1]["master"], trainer.flat.named()
    fresh = Model(start.spec.model, start.spec.objective.build(), start.spec.unit_shape(257))
    initialise(fresh, start.spec.seed)
    for name, usual in (
        ("model.embed_tokens.weight", fresh.model.embed_tokens.weight),
        ("lm_head.weight", fresh.lm_head.weight),
    ):
        assert torch.equal(mine[name][:257], there[name])
        assert torch.equal(mine[name][257:], usual[257:])


def test_another_head_is_new_and_one_that_is_gone_is_left() -> None:
    ours, theirs = make_model(make_spec(objective=JEPA)), make_model(make_spec())
    fit = fit_of(ours, {name: list(p.shape) for name, p in theirs.named_parameters()}, VOCABULARY)
    heads = {name.partition(".")[0] for name, _ in ours.named_parameters() if not name.startswith("model.")}
    assert heads <= set(fit.new)
    assert not fit.misfits
    assert fit.parameters == len(fit.taken) + sum(
        name.partition(".")[0] in heads or name == "model.mask" for name, _ in ours.named_parameters()
    )


def test_a_teacher_follows_the_parents_teacher_or_else_its_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "text.txt").write_text("some text")
    parent = make_parent(tmp_path, objective=JEPA)
    start = find_start(child(objective=JEPA))
    trainer = started(start, tmp_path / "a")
    there = load_states(parent.checkpoints, ("master", "teacher"))[1]
    assert start.place.teacher_sha256 == sha256_of(there["teacher"]) != start.place.weights_sha256
    assert all(torch.equal(trainer.teacher.weights[name], tensor) for name, tensor in there["teacher"].items())
    assert all(torch.equal(trainer.flat.named()[name], tensor) for name, tensor in there["master"].items())
    without = started(find_start(child(objective={"kind": "masked_token"})), tmp_path / "b")
    assert without.teacher is None
    taken = make_trainer(make_spec(objective=JEPA), Group())
    source = make_trainer(make_spec(objective=JEPA, seed=5), Group()).flat.named()
    take(taken, {"master": source}, VOCABULARY)
    assert all(torch.equal(taken.teacher.weights[name], tensor) for name, tensor in source.items())


def steps_from(group: Group, folder: str, wanted: str) -> str:
    """Two steps from kept weights, each worker doing its part; the weights' SHA-256."""
    trainer = make_trainer(make_spec(), group)
    trainer.initialise()
    begin(trainer, Store.at(folder), InitFromConfig.model_validate_json(wanted), VOCABULARY)
    for step in range(2):
        mine = range(group.rank, 5, group.world)
        trainer.step(step, [(step * 5 + i, micro_batch(trainer.spec, step * 5 + i)) for i in mine])
    return weights_sha256(trainer.weights())


def kept(folder: Path) -> InitFromConfig:
    """Random weights, kept in a run's folder."""
    weights = {name: tensor.clone() for name, tensor in make_trainer(make_spec(seed=9), Group()).flat.named().items()}
    write_start(Store.at(folder), {"master": weights})
    return InitFromConfig(run="runs/parent", step=8, weights_sha256=sha256_of(weights))


def test_any_number_of_workers_starts_with_the_same_bits(tmp_path: Path) -> None:
    wanted = kept(tmp_path).model_dump_json()
    alone = steps_from(Group(), str(tmp_path), wanted)
    for world in (2, 3):
        assert run_group(world, steps_from, str(tmp_path), wanted) == [alone] * world
    scratch = make_trainer(make_spec(), Group())
    for step in range(2):
        scratch.step(step, [(step * 5 + i, micro_batch(scratch.spec, step * 5 + i)) for i in range(5)])
    assert weights_sha256(scratch.weights()) != alone


def test_kept_weights_that_are_lost_or_damaged_are_one_sentence(tmp_path: Path) -> None:
    wanted, folder = kept(tmp_path), Store.at(tmp_path)
    file = tmp_path / START
    whole = file.read_bytes()
    file.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    with pytest.raises(
        InputError, match=r"runs/parent at step 8, from which this run starts.*SHA-256.*train the same spec again"
    ):
        read_start(folder, wanted)
    file.write_bytes(whole[:100])
    with pytest.raises(InputError, match=r"are no longer in .*start.safetensors"):
        begin(make_trainer(make_spec(), Group()), folder, wanted, VOCABULARY)
    file.unlink()
    with pytest.raises(InputError, match=r"cannot be read"):
        read_start(folder, wanted)


def test_facts_and_stored_spec_contain_the_start(parent: Run, tmp_path: Path) -> None:
    start = find_start(child())
    run = run_with_records(tmp_path / "runs", name="named", init_from=start.place.model_dump())
    assert run.facts().init_from == start.place.model_dump()
    assert json.loads(run.facts().to_json())["init_from"]["step"] == 8
    assert load_spec(Path(run.folder.path) / "spec.yaml").init_from == start.place
    assert parent.facts().init_from is None
