"""Exports of images and trajectories: with weights far from zero, the stock class's outputs equal ours."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from foundray.contract import Plan, Units
from foundray.data.stream.batch import packed
from foundray.exports import decision_transformer, mae
from foundray.exports.forms import NoStockClass
from foundray.model.model import Batch, Model
from foundray.spec import Spec
from foundray.testing.specs import make_spec

transformers = pytest.importorskip("transformers")
CLOSE = 1e-5
FILES = [{"path": "x", "format": "files"}]
FLAGS = {"norm": "ln", "act": "gelu", "rope_theta": None}
PICTURE = {"kind": "image", "size": 24, "patch": 4, "channels": 3}
PIXELS: dict[str, Any] = {
    "objective": {"kind": "masked_pixel"}, "data": {"sources": FILES, "modality": PICTURE},
    "model": {"width": 48, "depth": 2, "heads": 4, "context": 36, "class_unit": True, "bias": True, **FLAGS,
              "predictor": {"width": 32, "heads": 2, "depth": 1}},
}  # fmt: skip
STEPS = 7
TRAJECTORY = {"kind": "trajectory", "state_width": 5, "action_width": 2, "return_scale": 10.0, "longest": 50,
              "state_mean": [0.1, 0.2, 0.3, 0.4, 0.5], "state_std": [1.0, 2.0, 3.0, 4.0, 5.0]}  # fmt: skip
ACTIONS: dict[str, Any] = {
    "objective": {"kind": "next_action"}, "data": {"sources": FILES, "modality": TRAJECTORY},
    "model": {"width": 32, "depth": 2, "heads": 4, "context": 3 * STEPS, "bias": True, **FLAGS},
}  # fmt: skip
STATES: dict[str, Any] = {**ACTIONS, "objective": {"kind": "next_state", "scale": 2.0}}


def wild(spec: Spec) -> Model:
    """Weights far from zero, so that a wrong formula shows."""
    torch.manual_seed(0)
    model = Model(spec.model, spec.objective.build(), spec.unit_shape(0)).eval()
    for parameter in model.parameters():
        parameter.data = torch.randn(parameter.shape) * 0.25 + (parameter.dim() < 2)
    return model


def changed(spec: dict[str, Any], **model: Any) -> Spec:
    return make_spec(**spec | {"model": spec["model"] | model})


def reloaded(stock: Any, folder: Path) -> Any:
    """The model after saving and loading, since names differ on disk."""
    stock.save_pretrained(folder)
    again, found = type(stock).from_pretrained(folder, output_loading_info=True, trust_remote_code=False)
    assert not any(found.values()), found
    return again.eval()


def apart(ours: torch.Tensor, theirs: torch.Tensor) -> float:
    """The largest difference, relative to the largest value."""
    assert ours.shape == theirs.shape
    return float((ours - theirs).abs().max() / ours.abs().max())


# Images


def pixels_batch(spec: Spec) -> tuple[Batch, torch.Tensor, torch.Tensor]:
    """Our batch; the same images [B, C, H, W]; and the noise that makes the stock class keep the same patches."""
    modality: Any = spec.data.modality.build()
    rng, side = np.random.default_rng(0), modality.size // modality.patch
    images = rng.uniform(-1, 1, (3, modality.size, modality.size, modality.channels)).astype(np.float32)
    patches = (
        images.reshape(3, side, modality.patch, side, modality.patch, -1).transpose(0, 1, 3, 2, 4, 5).reshape(3, side**2, -1)
    )
    plans = [spec.objective.build().plan(Units(x, None, modality.shape), rng) for x in patches]
    batch = Batch.load(packed(plans), torch.device("cpu"))
    assert batch.visible is not None
    order = torch.arange(batch.visible.shape[1]).float().expand(3, -1)
    noise = torch.full((3, side**2), 1e3).scatter(1, batch.visible, order)
    return batch, torch.from_numpy(images).permute(0, 3, 1, 2), noise


@pytest.mark.parametrize(
    "changes",
    [{}, {"bias": False}, {"base_width": 24, "base_depth": 1}],
    ids=["plain", "without biases", "CompleteP"],
)
@torch.no_grad()
def test_vitmae_gives_the_same_states_pixels_and_loss(changes: dict[str, Any], tmp_path: Path) -> None:
    spec = changed(PIXELS, **changes)
    model = wild(spec)
    theirs = reloaded(mae.build(model, spec), tmp_path)
    batch, images, noise = pixels_batch(spec)
    output = theirs(images, noise=noise)
    target, loss_mask = batch.targets["pixels"]
    assert torch.equal(output.mask.bool(), loss_mask)
    hidden = model.encode(batch)
    assert apart(hidden, theirs.vit(images, noise=noise).last_hidden_state) < CLOSE
    answers = model.answer(batch, hidden)["pixels"]
    assert apart(answers, output.logits) < CLOSE
    assert target is not None
    loss, count = spec.objective.build().loss(answers, target, loss_mask)
    assert output.loss.item() == pytest.approx((loss / count).item(), rel=CLOSE)
    whole = replace(batch, visible=None)
    theirs.config.mask_ratio = 0.0
    all_shown = theirs.vit(images, noise=torch.arange(36.0).expand(3, -1)).last_hidden_state
    assert apart(model.encode(whole), all_shown) < CLOSE
    model.model.class_unit *= 1.1
    assert apart(model.encode(whole), all_shown) > 100 * CLOSE, "the comparison can fail"


@torch.no_grad()
def test_a_vit_for_classification_loads_the_same_encoder(tmp_path: Path) -> None:
    """For fine-tuning: the prefix `vit` of its weights is the same."""
    spec = make_spec(**PIXELS)
    model = wild(spec)
    mae.build(model, spec).save_pretrained(tmp_path)
    theirs, found = transformers.ViTForImageClassification.from_pretrained(tmp_path, output_loading_info=True)
    assert found["missing_keys"] == {"classifier.weight", "classifier.bias"}
    batch, images, _ = pixels_batch(spec)
    states = theirs.eval().vit(images).last_hidden_state
    assert apart(model.encode(replace(batch, visible=None)), states) < CLOSE


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"class_unit": False}, "needs model: {class_unit: true}, and the run has class_unit: false"),
        (
            {"norm": "rms", "act": "swiglu", "rope_theta": 1e4},
            "needs model: {norm: ln, act: gelu, rope_theta: null}, and the run has norm: rms, act: swiglu, rope_theta: 10000.0",
        ),
        ({"predictor": {"width": 30, "heads": 3}}, "widths that are multiples of 4, and the run has 30"),
    ],
)
def test_why_a_run_is_no_vitmae(changes: dict[str, Any], message: str) -> None:
    spec = changed(PIXELS, **changes)
    with pytest.raises(NoStockClass) as caught:
        mae.build(wild(spec), spec)
    assert message in str(caught.value)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("height_and_width", [(24, 24), (60, 60), (96, 48)])
def test_the_stock_processor_gives_our_units(channels: int, height_and_width: tuple[int, int], tmp_path: Path) -> None:
    spec = make_spec(**PIXELS | {"data": {"sources": FILES, "modality": PICTURE | {"channels": channels}}})
    pixels = np.random.default_rng(0).integers(0, 256, (*height_and_width, 3)).astype(np.uint8)
    picture = Image.fromarray(pixels)
    picture.save(file := io.BytesIO(), "png")
    modality: Any = spec.data.modality.build()
    ours = modality.units({"image": file.getvalue()}, 36, None).x
    mae.processor(spec).save_pretrained(tmp_path)
    processor = transformers.AutoImageProcessor.from_pretrained(tmp_path)
    theirs = processor(images=picture.convert("L") if channels == 1 else picture, return_tensors="pt")["pixel_values"]
    model = mae.build(wild(spec), spec)
    assert apart(torch.from_numpy(ours), model.patchify(theirs)[0]) < CLOSE  # type: ignore[operator]


# Trajectories


def steps_batch(spec: Spec) -> tuple[Batch, dict[str, torch.Tensor]]:
    """Our batch, and the same input for the stock class, not yet standardised."""
    modality: Any = spec.data.modality.build()
    rng = np.random.default_rng(1)
    returns, states, actions = (rng.standard_normal((2, STEPS, k)).astype(np.float32) for k in (1, 5, 2))
    plans: list[Plan] = []
    for r, s, a in zip(returns, states, actions, strict=True):
        units = modality.interleaved(r[:, 0], s, a.argmax(-1)[:, None] if modality.discrete else a, 3)
        plans.append(spec.objective.build().plan(Units(units, None, modality.shape), rng))
    given = {"returns_to_go": returns, "states": states, "actions": actions}
    theirs = {name: torch.from_numpy(values) for name, values in given.items()}
    if modality.discrete:
        theirs["actions"] = torch.nn.functional.one_hot(theirs["actions"].argmax(-1), 2).float()
    theirs["timesteps"] = 3 + torch.arange(STEPS).expand(2, -1)
    return Batch.load(packed(plans), torch.device("cpu")), theirs


@pytest.mark.parametrize(
    ("fields", "changes"),
    [
        (ACTIONS, {}),
        (ACTIONS, {"bias": False, "act": "relu"}),
        (ACTIONS, {"base_width": 16, "base_depth": 1}),
        (STATES, {}),
        (ACTIONS | {"data": {"sources": FILES, "modality": TRAJECTORY | {"discrete": True, "longest": None}}}, {}),
    ],
    ids=["actions", "relu without biases", "CompleteP", "states", "discrete and timeless"],
)
@torch.no_grad()
def test_decision_transformer_gives_the_same_answers(fields: Any, changes: dict[str, Any], tmp_path: Path) -> None:
    spec = changed(fields, **changes)
    model = wild(spec)
    stock = reloaded(decision_transformer.build(model, spec), tmp_path)
    batch, given = steps_batch(spec)
    config = stock.config
    given["states"] = (given["states"] - torch.tensor(config.state_mean)) / torch.tensor(config.state_std)
    given["returns_to_go"] = given["returns_to_go"] / config.return_scale
    output = stock(**given, attention_mask=torch.ones(2, STEPS, dtype=torch.long))
    hidden = model.encode(batch)
    assert apart(hidden, output.last_hidden_state) < CLOSE
    answers = model.answer(batch, hidden)
    if config.predicts == "action":
        assert apart(answers["action"][:, 1::3], output.action_preds) < CLOSE
    else:
        assert apart(answers["state"][:, 2::3], output.state_preds) < CLOSE
        assert config.difference_scale == 2.0
        given["returns_to_go"] += 1
        assert torch.equal(stock(**given).state_preds, output.state_preds), (
            "returns, which reveal the future, are masked there too"
        )
    for name in ("states", "actions"):
        other = stock(**given | {name: given[name] + 0.1}).last_hidden_state
        assert apart(hidden, other) > 100 * CLOSE, "the comparison can fail"


def test_small_values_pass_the_first_norm_as_in_ours(tmp_path: Path) -> None:
    """The stock class's epsilon there is ten times ours, which would show for values as small as it."""
    spec = make_spec(**ACTIONS)
    model = wild(spec)
    with torch.no_grad():
        for parameter in (*model.model.embed_values.of.parameters(), model.model.embed_values.time.weight):  # type: ignore
            parameter *= 1e-3
    stock = reloaded(decision_transformer.build(model, spec), tmp_path)
    batch, given = steps_batch(spec)
    given["states"] = (given["states"] - torch.tensor(stock.config.state_mean)) / torch.tensor(stock.config.state_std)
    given["returns_to_go"] = given["returns_to_go"] / 10
    with torch.no_grad():
        ours, theirs = model.encode(batch), stock(**given).last_hidden_state
        assert apart(ours, theirs) < CLOSE
        for kind in ("return", "state", "action"):
            for parameter in getattr(stock, f"embed_{kind}").parameters():
                parameter /= 10**0.5
        stock.embed_timestep.weight /= 10**0.5
        assert apart(ours, stock(**given).last_hidden_state) > 100 * CLOSE, "the comparison can fail"


def test_why_a_run_is_no_decision_transformer() -> None:
    spec = changed(ACTIONS, rope_theta=1e4, act="swiglu")
    with pytest.raises(NoStockClass) as caught:
        decision_transformer.build(wild(spec), spec)
    needs = "needs model: {act: gelu or relu, rope_theta: null}, and the run has act: swiglu, rope_theta: 10000.0"
    assert str(caught.value).endswith(needs)


@pytest.mark.parametrize(("form", "spec"), [(mae, PIXELS), (decision_transformer, ACTIONS)], ids=["mae", "decision"])
def test_the_cards_code_runs(form: Any, spec: dict[str, Any], tmp_path: Path) -> None:
    full = make_spec(**spec)
    form.build(wild(full), full).save_pretrained(tmp_path)
    if processor := form.processor(full):
        processor.save_pretrained(tmp_path)
    exec(form.USE.replace("FOLDER", str(tmp_path)), {})
