"""Exports of really trained runs, used by somebody who has Hugging Face's libraries and nothing of ours."""

from __future__ import annotations

import json
import re
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from huggingface_hub import ModelCard
from safetensors import safe_open
from safetensors.torch import save_file
from tests import without_foundray
from tests.command import FOUNDRAY, Done, foundray, foundray_here

import foundray as api
from foundray.contract import Plan, Target, Units
from foundray.data.prepare.recipe import prepared_folder
from foundray.data.stream.batch import packed
from foundray.evaluation.encoder import Encoder, Reader, features
from foundray.model.model import Batch
from foundray.runs.run import Run
from foundray.spec import SourceConfig
from foundray.spec.loading import load_spec
from foundray.testing.specs import small_spec, write_spec
from foundray.training.checkpoints.checkpoint import load_weights

RUNS: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("LlamaForCausalLM", {"data__tokenizer": {"kind": "char"}}),
    "granite": (
        "GraniteForCausalLM",
        {
            "data__tokenizer": {"kind": "bpe", "vocab_size": 300},
            "model": {"width": 32, "depth": 2, "heads": 2, "context": 32, "base_width": 16, "base_depth": 1},
        },
    ),
    "middle": ("LlamaForCausalLM", {"objective": {"kind": "fill_in_middle"}}),
    "masked": ("EuroBertForMaskedLM", {"objective": {"kind": "masked_token"}, "model__base_depth": 1}),
}
GGUF = ("llama", "granite")
"""Those that are written for llama.cpp, too."""
OWN = {"objective": {"kind": "joint_embedding"}, "model__norm": "ln", "model__act": "gelu", "model__rope_theta": None}
MORE = [name for name in RUNS if name != "llama"]
"""Kinds that unit tests export with random weights."""
SENTENCE = "import os\n\n\ndef main() -> None:"


@dataclass
class Made:
    name: str
    run: Path
    out: Path
    facts: dict[str, Any]


@pytest.fixture(scope="module")
def runs(own_ray: None, storage: Path, prose: Path) -> Path:
    """Runs `llama` and `own`, trained for some steps on real text, with our own model's answers."""
    train(storage, prose, {"llama": RUNS["llama"][1], "own": OWN})
    return storage / "runs"


@pytest.fixture(scope="module")
def more_runs(runs: Path, storage: Path, prose: Path) -> Path:
    """A run of every other kind, too."""
    train(storage, prose, {name: RUNS[name][1] for name in MORE})
    return runs


def train(storage: Path, prose: Path, runs: dict[str, dict[str, Any]]) -> None:
    for name, changes in runs.items():
        spec = small_spec(prose, storage / "runs", name=name, train__steps=20, train__checkpoint_every=10, **changes)
        spec["data"]["sources"][0]["licence"] = "PSF-2.0"
        api.train(write_spec(storage, spec))
        if name in RUNS:
            save_file(answers(Run.open(str(storage / "runs" / name))), storage / f"{name}.safetensors")


@torch.no_grad()
def answers(run: Run) -> dict[str, torch.Tensor]:
    """A text's ids [1, T], its masked units [1, T], and our model's logits [1, T, classes]."""
    reader, model = Reader(run), Encoder.trained(run).model
    ids = np.concatenate([[reader.tokenizer.document_id], reader.tokenizer.encode([SENTENCE])[0]]).astype(np.int64)[:32]
    masked = np.arange(len(ids)) % 3 == 1 if "masked" in run.folder.name else None
    plan = Plan(Units(ids, None, reader.shape), (Target("lm_head", ids),), masked)
    logits = model(Batch.load(packed([plan]), torch.device("cpu")))["lm_head"]
    shown = torch.zeros(len(ids), dtype=torch.bool) if masked is None else torch.from_numpy(masked)
    return {"ids": torch.from_numpy(ids)[None], "masked": shown[None], "logits": logits.contiguous()}


@pytest.fixture(scope="module")
def exports(runs: Path) -> list[Made]:
    return [made_of(runs, "llama", foundray)]


@pytest.fixture(scope="module")
def more_exports(more_runs: Path) -> list[Made]:
    return [made_of(more_runs, name, foundray_here) for name in MORE]


def made_of(runs: Path, name: str, command: Callable[..., Done]) -> Made:
    out = runs.parent / "out" / name
    gguf = ["--gguf"] if name in GGUF else []
    return Made(name, runs / name, out, command("export", runs / name, out, "--json", *gguf).facts)


EXPORTS = pytest.mark.parametrize("kinds", ["exports", pytest.param("more_exports", marks=pytest.mark.thorough)])


SAME = """
import torch, transformers
from safetensors.torch import load_file

name, out, file = sys.argv[1:4]
ours, kind = load_file(file), getattr(transformers, name)
config = transformers.AutoConfig.from_pretrained(out, trust_remote_code=False)
auto = transformers.AutoModelForMaskedLM if "Masked" in name else transformers.AutoModelForCausalLM
model, loading = auto.from_pretrained(out, trust_remote_code=False, output_loading_info=True)
assert type(model) is kind and config.architectures == [name], type(model)
assert not any(loading.values()), loading
tokenizer = transformers.AutoTokenizer.from_pretrained(out, trust_remote_code=False)
ids, masked, logits = ours["ids"], ours["masked"], ours["logits"]
assert len(tokenizer) == config.vocab_size == model.get_input_embeddings().num_embeddings
assert tokenizer.model_max_length == config.max_position_embeddings == 32
if masked.any():
    assert tokenizer.mask_token_id == config.mask_token_id == config.vocab_size - 1
    ids = torch.where(masked, tokenizer.mask_token_id, ids)


def worst(other):
    with torch.no_grad():
        return float((other(ids).logits[..., : logits.shape[-1]] - logits).abs().max())


assert worst(model) < 1e-5, worst(model)
config.rope_parameters = {"rope_type": "default", "rope_theta": 500.0}
assert worst(auto.from_pretrained(out, config=config)) > 1e-3, "the comparison can fail"
text = sys.argv[4]
found = tokenizer(text)["input_ids"]
assert found[: ids.shape[1]] == ours["ids"][0].tolist(), (found, ours["ids"])
assert tokenizer.decode(found, skip_special_tokens=True) == text
"""

GOES_ON = """
import torch, transformers

out, texts, scratch = sys.argv[1:4]
tokenizer, model = (kind.from_pretrained(out) for kind in (transformers.AutoTokenizer, transformers.AutoModelForCausalLM))
kept = transformers.GenerationConfig.from_pretrained(out)
assert (kept.do_sample, kept.temperature, kept.top_k) == (True, 0.8, 50)
assert kept.bos_token_id == kept.eos_token_id == tokenizer.bos_token_id != kept.pad_token_id == tokenizer.pad_token_id
transformers.set_seed(0)
made = model.generate(**tokenizer(["import", "def main"], return_tensors="pt", padding=True), num_return_sequences=8)
assert made.shape[1] <= 32 and int(made.max()) < len(tokenizer) - len(tokenizer.extra_special_tokens), made
ids = tokenizer(open(texts).read())["input_ids"]
rows = [{"input_ids": ids[at : at + 32], "labels": ids[at : at + 32]} for at in range(0, 32 * 160, 32)]
arguments = transformers.TrainingArguments(
    scratch, max_steps=20, per_device_train_batch_size=8, learning_rate=3e-3, logging_steps=1, report_to=[], use_cpu=True,
    save_strategy="no", disable_tqdm=True, lr_scheduler_type="constant",
)
trainer = transformers.Trainer(model, arguments, train_dataset=rows)
trainer.train()
losses = [line["loss"] for line in trainer.state.log_history if "loss" in line]
assert sum(losses[-5:]) / 5 < sum(losses[:5]) / 5 - 0.1, losses
trainer.save_model(scratch)
again = transformers.AutoModelForCausalLM.from_pretrained(scratch)
assert not torch.equal(again.model.embed_tokens.weight[tokenizer.bos_token_id], before), "the document token learns, too"
""".replace("kept = ", "before = model.model.embed_tokens.weight[tokenizer.bos_token_id].detach().clone()\nkept = ", 1)


@EXPORTS
def test_the_same_answers_without_us_and_texts_and_training_continue(
    kinds: str, request: pytest.FixtureRequest, runs: Path, prose: Path, tmp_path: Path
) -> None:
    """And the card's instructions work. All in one process: most of a script is its imports."""
    scripts: list[tuple[str, list[object]]] = []
    for made in request.getfixturevalue(kinds):
        assert made.facts["stock_class"] == RUNS[made.name][0]
        (lines,) = re.findall(r"```python\n(.*?)```", (made.out / "README.md").read_text(), re.DOTALL)
        scripts.append((SAME + lines, [RUNS[made.name][0], made.out, runs.parent / f"{made.name}.safetensors", SENTENCE]))
        if made.name in ("llama", "middle"):
            scripts.append((GOES_ON, [made.out, prose, tmp_path / made.name]))
    without_foundray.run_all(scripts, cwd=runs.parent / "out")


@EXPORTS
def test_the_files_say_what_they_are(kinds: str, request: pytest.FixtureRequest, prose: Path) -> None:
    for made in request.getfixturevalue(kinds):
        check_files(made, prose)


def check_files(made: Made, prose: Path) -> None:
    import hashlib

    facts, identity = made.facts, json.loads((made.out / "foundray.json").read_text())
    assert facts["weights_sha256"] == api.status(made.run).weights_sha256 == identity["weights_sha256"]
    assert facts["step"] == identity["step"] == 20
    assert identity["arithmetic"] == {"engine": 1, "modality": 1, "objective": 1}
    file = made.out / "model.safetensors"
    assert hashlib.sha256(file.read_bytes()).hexdigest() == facts["file_sha256"] == identity["file_sha256"]
    with safe_open(file, "pt") as opened:
        assert opened.metadata() == {"format": "pt"}
        size = sum(opened.get_tensor(name).numel() for name in opened.keys())  # noqa: SIM118 - no mapping
    assert size == facts["parameters"] + (32 if made.name == "masked" else 0)  # the mask token's row of the head
    assert file.stat().st_mode & 0o044, "others may read it"
    card = (made.out / "README.md").read_text()
    data = ModelCard(card).data
    task = "fill-mask" if made.name == "masked" else "text-generation"
    assert (data.library_name, data.pipeline_tag, data.license, data.license_name) == ("transformers", task, "other", "psf-2.0")
    assert {"foundray", "text"} < set(data.tags)
    assert re.search(rf"\| text \| PSF-2.0 \| 1 \| [\d,]+ \| {prose.stat().st_size:,} \|", card)
    evaluated = api.status(made.run).val_loss
    assert f"nats per token | {evaluated:.4f} |" in card
    assert ("bits per byte" in card) == (made.name in ("llama", "granite"))
    written = {facts[sha] for sha in ("weights_sha256", "file_sha256", "gguf_sha256")} - {None}
    assert written <= set(re.findall(r"`([0-9a-f]{64})`", card))
    assert ("llama-server --model" in card) == (made.out / "model.gguf").exists() == (made.name in GGUF)


@pytest.mark.thorough
def test_foundray_reads_its_exports(more_runs: Path, tmp_path: Path) -> None:
    """The weights of a decoder are the run's own; an encoder's are folded for another class."""
    runs = more_runs
    api.export(runs / "granite", tmp_path / "granite")
    loaded = api.load(tmp_path / "granite")
    run = Run.open(str(runs / "granite"))
    for name, tensor in Encoder.trained(run).model.state_dict().items():
        assert torch.equal(tensor, loaded.encoder.model.state_dict()[name])
    one = loaded.encode_texts([SENTENCE, "x"])
    assert one.shape == (2, 32)
    assert not np.allclose(one[0], one[1])
    api.export(runs / "masked", tmp_path / "masked")
    with pytest.raises(api.InputError, match="transformers' EuroBertForMaskedLM, which loads it"):
        api.load(tmp_path / "masked")


def test_what_no_stock_class_computes_foundray_loads(runs: Path, prose: Path, tmp_path: Path) -> None:
    """This includes a teacher's weights, which are the purpose of such an objective."""
    exported = api.export(runs / "own", tmp_path / "own")
    assert (exported.stock_class, exported.reason) == (None, "no stock class learns by joint_embedding")
    assert exported.weights_sha256 == api.status(runs / "own").weights_sha256
    run, loaded = Run.open(str(runs / "own")), api.load(tmp_path / "own")
    reader, teacher = Reader(run), Encoder.trained(run)
    own = load_weights(run.checkpoints)[1]
    assert not torch.equal(own["model.norm.weight"], loaded.encoder.model.state_dict()["model.norm.weight"])
    (tmp_path / "text.txt").write_text(prose.read_text()[:300])
    expected = features(
        teacher, [reader.units(row) for row in reader.read(SourceConfig(path=str(tmp_path / "text.txt")))], "mean"
    )
    assert np.array_equal(loaded.encode(str(tmp_path / "text.txt")), expected)
    assert expected.shape == (10, 32)
    assert [str(row.name) for row, _ in loaded.samples(str(tmp_path / "text.txt"))] == [str(tmp_path / "text.txt")] * 10
    config = json.loads((tmp_path / "own" / "config.json").read_text())
    assert (config["model_type"], config["units"]["classes"]) == ("foundray", reader.shape.classes)
    card = ModelCard.load(tmp_path / "own" / "README.md")
    assert (card.data.library_name, card.data.pipeline_tag) == ("foundray", None)
    assert "It is in that form since no stock class learns by joint_embedding." in card.content
    assert 'foundray.load("own")' in card.content
    (tmp_path / "own" / "config.json").unlink()
    with pytest.raises(api.InputError, match="is incomplete"):
        api.load(tmp_path / "own")


def test_an_earlier_step(runs: Path, tmp_path: Path) -> None:
    earlier, last = (api.export(runs / "llama", tmp_path / str(step), step) for step in (10, None))
    assert (earlier.step, last.step) == (10, 20)
    assert earlier.weights_sha256 != last.weights_sha256
    assert "after step 10 of 20" in (tmp_path / "10" / "README.md").read_text()
    assert "nats per token" not in (tmp_path / "10" / "README.md").read_text(), "it was evaluated after step 20 only"


def test_a_killed_export_leaves_nothing_that_looks_whole(runs: Path, tmp_path: Path) -> None:
    command = subprocess.Popen([FOUNDRAY, "export", runs / "llama", tmp_path / "out"], stderr=subprocess.DEVNULL)
    while not list(tmp_path.glob(".out.*/*")):
        assert command.poll() is None, "it ended before it could be killed"
        time.sleep(0.001)
    command.kill()
    command.wait()
    assert not (tmp_path / "out").exists()
    assert api.export(runs / "llama", tmp_path / "out").step == 20


def test_bad_input_is_refused(runs: Path, tmp_path: Path) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").write_text("mine")
    (bare := tmp_path / "bare").mkdir()
    for file in ("spec.yaml", "data.json"):
        (bare / file).write_bytes((runs / "llama" / file).read_bytes())
    for run, out, flags, said in (
        (tmp_path, "out", [], "is not a run's folder"),
        (bare, "out", [], "holds no usable checkpoint yet"),
        (runs / "llama", "full", [], "holds something already"),
        (runs / "llama", "full/file", [], "is a file"),
        (runs / "llama", "full/file/deeper", [], "cannot be written"),
        (runs / "llama", "out", ["--step", "15"], "no complete checkpoint of step 15; it holds those of steps 10, 16, 20"),
        (runs / "llama", "out", ["--set", "model.width=64"], "was made by another spec"),
        (runs / "own", "out", ["--gguf"], "runs models that continue texts, and joint_embedding makes none"),
    ):
        assert said in foundray_here("export", run, tmp_path / out, *flags).refusal, said
    with pytest.raises(api.InputError, match="is not an export of a run, or is incomplete"):
        api.load(bare)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bare", "full"]
    assert (tmp_path / "full" / "file").read_text() == "mine"


def test_a_licence_added_later_keeps_run_and_data(runs: Path, prose: Path, tmp_path: Path) -> None:
    api.export(runs / "llama", tmp_path / "out", overrides={"data.sources.0.licence": "CC-BY-SA-4.0"})
    assert "license: cc-by-sa-4.0" in (tmp_path / "out" / "README.md").read_text()
    changed = load_spec(runs / "llama" / "spec.yaml", {"data.sources.0.licence": "MIT"})
    assert (prepared_folder(changed)[0] / "manifest.json").exists(), "the prepared data is still the run's"
