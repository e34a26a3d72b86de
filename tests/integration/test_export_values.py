"""Exports of really trained runs on images and trajectories, used by somebody who has nothing of ours.

Unit tests show the same for models with random weights.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from tests import without_foundray
from tests.command import foundray_here
from tests.integration.pictures import images

import foundray as api
from foundray.data.stream.batch import packed
from foundray.evaluation.encoder import Encoder, Reader
from foundray.model.model import Batch
from foundray.runs.run import Run
from foundray.spec import SourceConfig
from foundray.testing.specs import small_spec, write_spec

pytestmark = pytest.mark.thorough

FLAGS = {"width": 32, "depth": 2, "heads": 2, "norm": "ln", "act": "gelu", "bias": True, "rope_theta": None}
PICTURE = {"kind": "image", "size": 16, "patch": 4, "channels": 1}
STEPS = {"kind": "trajectory", "state_width": 3, "action_width": 2, "longest": 60, "return_scale": 5.0,
         "state_mean": [0.5, 0.0, -0.5], "state_std": [1.0, 2.0, 0.5]}  # fmt: skip
PREDICTOR = {"width": 16, "depth": 1, "heads": 2}
RUNS: dict[str, tuple[str | None, dict[str, Any]]] = {
    "pixels": ("ViTMAEForPreTraining", {
        "objective": {"kind": "masked_pixel"}, "data__modality": PICTURE,
        "model": {**FLAGS, "context": 16, "class_unit": True, "predictor": PREDICTOR},
    }),
    "bare": (None, {"objective": {"kind": "masked_pixel"}, "data__modality": PICTURE,
                    "model": {**FLAGS, "context": 16, "predictor": PREDICTOR}}),
    "actions": ("DecisionTransformerModel", {
        "objective": {"kind": "next_action"}, "data__modality": STEPS, "model": {**FLAGS, "context": 24},
    }),
    "states": ("DecisionTransformerModel", {
        "objective": {"kind": "next_state"}, "data__modality": STEPS,
        "model": {**FLAGS, "context": 24, "base_width": 16, "base_depth": 1},
    }),
}  # fmt: skip


def episodes(folder: Path) -> Path:
    """Recordings of a point pushed about at random."""
    rng = np.random.default_rng(0)
    lengths = rng.integers(20, 60, 30)
    actions = rng.normal(0, 1, (lengths.sum(), 2))
    states = np.concatenate([actions.cumsum(0) * 0.1, rng.normal(0, 1, (len(actions), 1))], 1)
    arrays = {"states": states, "actions": actions, "rewards": -np.abs(states[:, 0])}
    (made := folder / "episodes").mkdir()
    np.savez(made / "all.npz", lengths=lengths, **{name: values.astype(np.float32) for name, values in arrays.items()})
    return made


@pytest.fixture(scope="module")
def runs(own_ray: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One run per kind, trained for some steps, with our own model's answers."""
    folder = tmp_path_factory.mktemp("values")
    sources = {"image": images(folder), "trajectory": episodes(folder)}
    (sources["image"] / "007.png").unlink()  # it is cut off
    for name, (_, changes) in RUNS.items():
        source = sources[changes["data__modality"]["kind"]]
        given = [{"path": str(source), "format": "files"}]
        spec = small_spec(Path("x"), folder / "runs", name=name, data__sources=given, train__steps=20, **changes)
        spec["data"].pop("tokenizer")
        api.train(write_spec(folder, spec))
        save_file(answers(Run.open(str(folder / "runs" / name)), source), folder / f"{name}.safetensors")
    return folder


@torch.no_grad()
def answers(run: Run, source: Path) -> dict[str, torch.Tensor]:
    """Our model's answers for the first three samples, with everything that the stock class needs to compute the same."""
    reader, model, objective = Reader(run), Encoder.trained(run).model, run.spec().objective.build()
    some = [row for row, _ in zip(reader.read(SourceConfig(path=str(source), format="files")), range(3), strict=False)]
    rows = [reader.units(row) for row in some]  # type: ignore[arg-type]
    rng = np.random.default_rng(0)
    batch = Batch.load(packed([objective.plan(units, rng) for units in rows]), torch.device("cpu"))
    hidden = model.encode(batch)
    found: dict[str, torch.Tensor] = {"hidden": hidden, "answers": next(iter(model.answer(batch, hidden).values()))}
    if batch.visible is not None:
        target, loss_mask = next(iter(batch.targets.values()))
        assert target is not None
        loss, count = objective.loss(found["answers"], target, loss_mask)
        return {**found, "visible": batch.visible, "loss": loss / count}
    raw = [row.content for row in some]  # type: ignore[union-attr]
    steps = len(rows[0]) // 3
    for key, width in (("returns", 1), ("states", 3), ("actions", 2)):
        found[key] = torch.tensor([content[key][: steps * width] for content in raw]).reshape(3, steps, width)  # type: ignore
    found["times"] = torch.tensor([[content["time"] + step for step in range(steps)] for content in raw])  # type: ignore
    return found


START = """
import torch, transformers
from safetensors.torch import load_file

name, out, file = sys.argv[1:4]
ours = load_file(file)
auto = transformers.AutoModelForPreTraining if "MAE" in name else transformers.AutoModel
model, loading = auto.from_pretrained(out, trust_remote_code=False, output_loading_info=True)
assert type(model).__name__ == name and model.config.architectures == [name], type(model)
assert not any(loading.values()), loading
torch.set_grad_enabled(False)


def close(theirs, ours):
    assert theirs.shape == ours.shape, (theirs.shape, ours.shape)
    return float((theirs - ours).abs().max() / ours.abs().max()) < 1e-5
"""
PIXELS = """
from pathlib import Path
from PIL import Image

processor = transformers.AutoImageProcessor.from_pretrained(out, trust_remote_code=False)
files = [file for file in sorted(Path(sys.argv[4]).iterdir())][:3]
images = processor(images=[Image.open(file) for file in files], return_tensors="pt")["pixel_values"]
kept = ours["visible"].shape[1]
noise = torch.full((3, 16), 100.0).scatter(1, ours["visible"], torch.arange(float(kept)).expand(3, -1))
output = model(images, noise=noise)
assert close(model.vit(images, noise=noise).last_hidden_state, ours["hidden"])
assert close(output.logits, ours["answers"])
assert abs(output.loss - ours["loss"]) < 1e-5 * ours["loss"]
assert not close(model(images.flip(0), noise=noise).logits, ours["answers"]), "the comparison can fail"
"""
STEPS_OF = """
c = model.config
given = {
    "states": (ours["states"] - torch.tensor(c.state_mean)) / torch.tensor(c.state_std),
    "actions": ours["actions"],
    "returns_to_go": ours["returns"] / c.return_scale,
    "timesteps": ours["times"],
}
output = model(**given)
assert close(output.last_hidden_state, ours["hidden"])
turn, answers = (1, output.action_preds) if c.predicts == "action" else (2, output.state_preds)
assert close(answers, ours["answers"][:, turn::3])
other = model(**{**given, "states": ours["states"]})
assert not close(other.last_hidden_state, ours["hidden"]), "the comparison can fail"
"""


def test_the_same_answers_without_us(runs: Path, tmp_path: Path) -> None:
    scripts: list[tuple[str, list[object]]] = []
    for name, (stock, changes) in RUNS.items():
        if not stock:
            continue
        out, pixels = tmp_path / name, "image" in changes["data__modality"]["kind"]
        facts = foundray_here("export", runs / "runs" / name, out, "--json").facts
        assert facts["stock_class"] == stock
        assert facts["weights_sha256"] == api.status(runs / "runs" / name).weights_sha256
        with safe_open(out / "model.safetensors", "pt") as opened:
            assert opened.metadata() == {"format": "pt"}
            assert all(torch.isfinite(opened.get_tensor(each)).all() for each in opened.keys())  # noqa: SIM118 - no mapping
        given = [stock, out, runs / f"{name}.safetensors", *([runs / "images"] if pixels else [])]
        instructions = (out / "README.md").read_text().split("```python\n")[1].split("```")[0]
        scripts.append((START + (PIXELS if pixels else STEPS_OF) + instructions, given))
    without_foundray.run_all(scripts, cwd=tmp_path)


def test_what_no_stock_class_computes_goes_out_in_our_own_form(runs: Path, tmp_path: Path) -> None:
    facts = foundray_here("export", runs / "runs" / "bare", tmp_path / "out", "--json").facts
    assert facts["stock_class"] is None
    why = "ViTMAEForPreTraining needs model: {class_unit: true}, and the run has class_unit: false"
    assert facts["reason"] == why
    assert why in (tmp_path / "out" / "README.md").read_text()
    assert json.loads((tmp_path / "out" / "config.json").read_text())["model_type"] == "foundray"
    loaded = api.load(tmp_path / "out")
    assert loaded.encode(str(runs / "images"), "mean").shape == (149, 32)
    with pytest.raises(api.InputError, match="pool: class: the run's model has no class unit"):
        loaded.encode(str(runs / "images"), "class")
    api.export(runs / "runs" / "pixels", tmp_path / "stock")
    with pytest.raises(api.InputError, match="transformers' ViTMAEForPreTraining, which loads it"):
        api.load(tmp_path / "stock")
