from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.repository import REPOSITORY

from foundray.errors import InputError
from foundray.spec import Section, Spec
from foundray.spec.documented import descriptions, json_schema
from foundray.spec.loading import load_spec, parse_override, parse_spec
from foundray.testing.specs import SERIES, small_spec, write_spec


def refused(changes: dict[str, Any], tmp_path: Path) -> str:
    path = write_spec(tmp_path, small_spec(tmp_path / "text", tmp_path))
    with pytest.raises(InputError) as caught:
        load_spec(path, changes)
    sentence = str(caught.value)
    assert "\n" not in sentence
    return sentence


def test_a_missing_field_is_named_and_data_shown() -> None:
    with pytest.raises(InputError, match=r"the field `data` is missing; it names the sources, as in `data: \{sources: "):
        parse_spec("name: x", "spec.yaml")
    with pytest.raises(InputError, match=r"the field `data.sources` is missing$"):
        parse_spec("{name: x, data: {}}", "spec.yaml")


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("model.widht", 3, "did you mean 'width'"),
        ("model.heads", 3, "width 32 does not divide into 3 heads"),
        ("scale.workers", [3, 1], "the minimum comes first: [1, 3]"),
        ("scale.workers", 0, "scale.workers"),
        ("scale", {"workers": 9, "pools": {"a": {"workers": 2}}}, "the pools have [2, 2] workers in all"),
        ("scale", {"pools": {"a": {"workers": [3, 1]}}}, "the minimum comes first: [1, 3]"),
        ("scale", {"pools": {"a": {"workers": 1, "resources": {"GPU": 1}}, "b": {"workers": 1}}}, "cannot work in one group"),
        ("train.steps", -1, "train.steps"),
        ("train.keep_checkpoints", 1, "train.keep_checkpoints"),
        ("train.loss_chunk", 0, "train.loss_chunk"),
        ("objective.kind", "next_tokn", "did you mean 'next_token'"),
        ("optimizer.kind", "sgd", "input should be 'adamw8bit', 'adamw'"),
        ("optimizer.lr", float("nan"), "optimizer.lr"),
        ("schedule", {"warmup": 0.7, "decay": 0.7}, "more than the whole run"),
        ("data.tokenizer", {"kind": "bpe"}, "needs vocab_size"),
        ("data.tokenizer", {"kind": "char", "path": "x"}, "goes with kind 'file'"),
        ("data.holdout", 1.5, "data.holdout"),
        ("name", "../escape", "name"),
        ("data.sources", [], "data.sources"),
    ],
)
def test_a_bad_field_is_one_sentence_that_names_it(field: str, value: Any, message: str, tmp_path: Path) -> None:
    sentence = refused({field: value}, tmp_path)
    assert message in sentence
    assert field.split(".")[0] in sentence


@pytest.mark.parametrize("section", ["data.modality", "objective"])
def test_an_unknown_option_of_what_is_installed_names_the_file(section: str, tmp_path: Path) -> None:
    kind = {"data.modality": "text", "objective": "next_token"}[section]
    changes = {section.replace(".", "__"): {"kind": kind, "size": 8}}
    path = write_spec(tmp_path, small_spec(tmp_path / "text", tmp_path, **changes))
    with pytest.raises(InputError) as caught:
        load_spec(path)
    assert str(caught.value).startswith(f"{path}: {section}.size: ") and f"{kind} has these options" in str(caught.value)


@pytest.mark.parametrize(
    ("field", "value", "said"),
    [
        ("scale.team", 0, "scale.team: input should be greater than 0, or 'auto' (it is 0)"),
        ("fault.mirror_every", "nver", "fault.mirror_every: input should be a valid integer"),
        ("fault.mirror_every", "nver", "or 'never' (it is 'nver')"),
    ],
)
def test_a_value_that_is_none_of_a_fields_alternatives_is_one_sentence(
    field: str, value: object, said: str, tmp_path: Path
) -> None:
    assert said in refused({field: value}, tmp_path)


def test_what_cannot_be_computed_in_parts_is_refused(tmp_path: Path) -> None:
    series = {name.replace("__", "."): value for name, value in SERIES.items()}
    views = {**series, "objective": {"kind": "vicreg"}}
    assert load_spec(write_spec(tmp_path, small_spec(tmp_path / "text", tmp_path)), views).train.loss_chunk is None
    sentence = refused({**views, "train.loss_chunk": 64}, tmp_path)
    assert "train.loss_chunk: the loss of vicreg is no sum over units" in sentence
    sentence = refused({"train.compile": True, "train.recompute": "selective"}, tmp_path)
    assert "train.recompute: selective keeps the results of single operations, which train.compile fuses" in sentence


def test_files_that_are_not_specs(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot be read: No such file"):
        load_spec(tmp_path / "none.yaml")
    for text, message in (("a: [", "not valid YAML"), ("- 1", "holds no fields"), ("", "holds no fields")):
        with pytest.raises(InputError, match=message):
            parse_spec(text, "spec.yaml")
    (tmp_path / "binary").write_bytes(b"\xff\xfe")
    with pytest.raises(InputError, match="not UTF-8"):
        load_spec(tmp_path / "binary")


def test_yaml_cannot_run_code(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="not valid YAML"):
        parse_spec("name: !!python/object/apply:os.getcwd []", "spec.yaml")


def test_overrides(tmp_path: Path) -> None:
    path = write_spec(tmp_path, small_spec(tmp_path / "text", tmp_path))
    settings = ["optimizer.lr=3e-4", "data.sources.0.weight=2", "scale.workers=3", "scale.resources.CPU=0.5"]
    spec = load_spec(path, dict(map(parse_override, settings)))
    assert spec.optimizer.lr == 3e-4
    assert spec.data.sources[0].weight == 2
    assert spec.scale.workers == (3, 3)
    assert spec.scale.worker_threads == 1
    for wrong in ("optimizer.lr", "=3"):
        with pytest.raises(InputError, match=r"field.name=value"):
            parse_override(wrong)
    with pytest.raises(InputError, match="not one of the 1 items"):
        load_spec(path, {"data.sources.7.weight": 1})


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        ({"optimizer.lr": -1}, "--set optimizer.lr: input should be greater than 0 (it is -1)"),
        ({"model.widht": 3, "seed": 4}, "--set model.widht is not a field (did you mean 'width'?)"),
        ({"optimizr.lr": 1}, "--set optimizr.lr: optimizr is not a field (did you mean 'optimizer'?)"),
        ({"model.heads": 3, "seed": 4}, "--set model.heads: model: width 32 does not divide into 3 heads"),
        ({"schedule.warmup": 0.6, "schedule.decay": 0.6}, "--set schedule.warmup, --set schedule.decay: schedule: warmup 0.6"),
        ({"objective.rate": 3}, "--set objective.rate: "),
        ({"name": "x" * 101}, "--set name: it has 101 characters"),
    ],
)
def test_a_mistake_in_a_flag_names_the_flag_and_one_in_the_file_the_file(
    overrides: dict[str, Any], said: str, tmp_path: Path
) -> None:
    assert (sentence := refused(overrides, tmp_path)).startswith(said) and str(tmp_path) not in sentence
    path = write_spec(tmp_path, {**small_spec(tmp_path / "text", tmp_path), "seed": -5})
    with pytest.raises(InputError) as caught:
        load_spec(path, {"optimizer.betas": [0.9, 0.99]})
    assert str(caught.value).startswith(f"{path}: seed: input should be greater than or equal to 0"), "whatever is overridden"


def test_identity_is_what_decides_the_result(tmp_path: Path) -> None:
    path = write_spec(tmp_path, small_spec(tmp_path / "text", tmp_path))
    spec = load_spec(path)
    for field, value in (
        ("scale.workers", 7),
        ("storage", "elsewhere"),
        ("train.checkpoint_every", 9),
        ("fault.max_restarts", 0),
        ("train.recompute", "selective"),
        ("train.loss_chunk", None),
    ):
        assert load_spec(path, {field: value}).fingerprint() == spec.fingerprint()
    assert load_spec(path, {"train.compile": False}).fingerprint() == spec.fingerprint(), "as if it is not set"
    for field, value in (
        ("seed", 1),
        ("optimizer.lr", 1.0),
        ("train.steps", 9),
        ("train.exact", False),
        ("train.compile", True),
        ("train.loss_chunk", 64),
    ):
        assert load_spec(path, {field: value}).fingerprint() != spec.fingerprint()


def test_a_resolved_spec_reads_back_as_itself(tmp_path: Path) -> None:
    spec = load_spec(write_spec(tmp_path, small_spec(tmp_path / "text", tmp_path)))
    assert parse_spec(spec.to_yaml(), "again") == spec
    assert yaml.safe_load(spec.to_yaml())["model"]["width"] == 32


def test_every_field_is_documented() -> None:
    def sections(section: type[Section]) -> Any:
        yield section
        for sub in section.__subclasses__():
            yield from sections(sub)

    for section in sections(Section):
        for name in section.model_fields:
            assert descriptions(section).get(name), f"{section.__name__}.{name} has no docstring"
    assert json_schema(Spec)["properties"]["seed"]["description"]


def test_pools_add_up() -> None:
    pools = {"big": {"workers": [1, 4], "accelerator": "A100", "resources": {"GPU": 1, "CPU": 4}}}
    pools["small"] = {"workers": [0, 8], "labels": {"zone": "in(a,b)"}, "resources": {"GPU": 1, "CPU": 2}}
    spec = parse_spec(yaml.safe_dump(small_spec(Path("x"), Path("y"), scale={"pools": pools})), "test")
    assert spec.scale.workers == (1, 12)
    assert spec.scale.worker_threads == 2
    assert parse_spec(spec.to_yaml(), "again") == spec
    alone = parse_spec(yaml.safe_dump(small_spec(Path("x"), Path("y"))), "test")
    assert spec.fingerprint() == alone.fingerprint()
    assert list(alone.scale.all_pools) == [""]


@pytest.mark.parametrize(
    ("example", "fingerprint"),
    [
        ("control/pendulum.yaml", "4469ce3a5102e9b9"),
        ("handwritten-digits/spec.yaml", "b625ba2c7776ba35"),
        ("shakespeare/spec.yaml", "8eb78b87a65a8884"),
    ],
)
def test_fingerprints_of_earlier_runs_do_not_change(example: str, fingerprint: str) -> None:
    """A new field must not change the fingerprint of a spec without it; a deliberate change of results may."""
    assert load_spec(REPOSITORY / "examples" / example).fingerprint() == fingerprint


def test_the_smallest_spec_is_a_path(tmp_path: Path) -> None:
    spec = parse_spec("data: data/novels/*.txt", "spec.yaml")
    assert (spec.name, spec.objective.kind, spec.data.sources[0].path) == ("novels", "next_token", "data/novels/*.txt")
    assert (spec.model.width, spec.model.context, spec.optimizer.lr, spec.train.steps) == (128, 128, 4e-3, 1000)
    assert parse_spec(spec.to_yaml(), "resolved") == spec


def test_overrides_reach_into_the_smallest_spec() -> None:
    changes = {"data.sources.0.path": "/x", "data.tokenizer.kind": "char", "model.context": 256, "init_from.step": 3}
    spec = parse_spec("data: novels\ninit_from: runs/a", "spec.yaml", changes)
    assert (spec.data.sources[0].path, spec.data.tokenizer.kind) == ("/x", "char")
    assert (spec.model.width, spec.model.depth, spec.model.context) == (128, 4, 256)
    assert str(spec.init_from) == "runs/a at step 3"
    assert parse_spec("name: a", "spec.yaml", {"data": "x", "data.holdout": 0.2}).data.holdout == 0.2


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ("{sources: [{path: x}], modality: {kind: imge}}", r"data\.modality\.kind: no modality .* \(did you mean 'image'\?\)"),
        ("{sources: [{path: x}], modality: {kind: image, size: 60, patch: 7}}", "patch 7 does not divide size 60"),
        ("null", "^spec.yaml: data: input should be"),
    ],
)
def test_what_follows_from_an_error_in_the_data_is_not_reported_instead(data: str, message: str) -> None:
    with pytest.raises(InputError, match=message) as refusal:
        parse_spec(f"data: {data}", "spec.yaml")
    assert "missing" not in str(refusal.value) and "more after" not in str(refusal.value)


@pytest.mark.parametrize(
    ("modality", "objective", "context"),
    [
        ("{kind: image, size: 28, patch: 4}", "masked_pixel", 49), ("{kind: audio}", "next_frame", 60),
        ("{kind: series, patch: 16}", "masked_patch", 60), ("{kind: dna}", "next_token", 128),
        ("{kind: trajectory, state_width: 3, action_width: 1}", "next_action", 60),
    ],
)  # fmt: skip
def test_the_data_decides_objective_and_context(modality: str, objective: str, context: int) -> None:
    data = f"data: {{modality: {modality}, sources: [{{path: data/x}}]}}"
    spec = parse_spec(data, "spec.yaml")
    assert (spec.objective.kind, spec.model.context) == (objective, context)
    wide = parse_spec(f"{data}\nmodel: {{width: 512, depth: 2, heads: 8}}", "spec.yaml")
    assert wide.model.context == context and wide.optimizer.lr == float(f"{spec.optimizer.lr / 4:.1g}")
    tuned = parse_spec(f"{data}\nmodel: {{width: 512, depth: 2, heads: 8, base_width: 64}}", "spec.yaml")
    assert tuned.optimizer.lr == spec.optimizer.lr, "CompleteP scales the base's rate"


def test_what_is_filled_in_counts_like_what_is_written() -> None:
    short = parse_spec("name: a\ndata: x.txt\ntrain: {micro_batches: 2}", "spec.yaml")
    long = parse_spec(
        "name: b\ndata: {sources: [{path: y.txt}]}\nobjective: {kind: next_token}\noptimizer: {lr: 0.004}\n"
        "model: {width: 128, depth: 4, heads: 4, context: 128}\ntrain: {steps: 1000, micro_batches: 2}",
        "spec.yaml",
    )
    assert short.fingerprint() == long.fingerprint()


def test_fields_that_are_filled_in_are_not_required_by_the_schema() -> None:
    schema = json_schema(Spec)
    assert schema["required"] == ["data"]
    assert schema["$defs"]["OptimizerConfig"].get("required", []) == []
    assert schema["$defs"]["ModelConfig"].get("required", []) == []
