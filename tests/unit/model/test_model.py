"""The model against Hugging Face's: the same names, and the same loss for the same weights."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from tests.unit.models import CLASSES, CONFIG, NEXT, SHAPE, batch_of, mean_loss, random_model, tokens
from torch import nn

from foundray.contract import Units, UnitShape, load_modality, load_objective, squared_error
from foundray.data.stream.batch import packed
from foundray.errors import InputError
from foundray.model.backbone import Layers
from foundray.model.model import Batch, Model, attention_mask, initialise


@pytest.mark.parametrize("bias", [False, True])
def test_same_loss_and_gradient_as_llama(bias: bool) -> None:
    transformers = pytest.importorskip("transformers")
    ours = random_model(NEXT, shape := SHAPE.model_copy(update={"bias": bias}))
    theirs = transformers.LlamaForCausalLM(transformers.LlamaConfig(**CONFIG, attention_bias=bias, mlp_bias=bias))
    theirs.load_state_dict(ours.state_dict())  # strict: every name is Llama's
    x = tokens(3, 17)
    loss, reference = mean_loss(ours, NEXT, batch_of(NEXT, x)), theirs(x, labels=x).loss
    assert loss.item() == pytest.approx(reference.item(), rel=1e-5)
    loss.backward()
    reference.backward()
    gradients = {name: parameter.grad for name, parameter in theirs.named_parameters()}
    for name, parameter in ours.named_parameters():
        assert torch.allclose(parameter.grad, gradients[name], atol=1e-4), name
    wrong = Model(shape.model_copy(update={"rope_theta": 5_000.0}), NEXT, UnitShape(classes=CLASSES))
    wrong.load_state_dict(ours.state_dict())
    assert abs(mean_loss(wrong, NEXT, batch_of(NEXT, x)) - reference) > 1e-3  # the comparison can fail


def test_masked_tokens_same_loss_as_eurobert() -> None:
    """EuroBert's mask is a row of the embedding table; ours is a separate vector."""
    transformers = pytest.importorskip("transformers")
    masked = load_objective("masked_token", {"random": 0.1, "same": 0.1})
    ours = random_model(masked)
    mask_id = CLASSES  # one more row
    config = transformers.EuroBertConfig(
        **{**CONFIG, "vocab_size": CLASSES + 1}, pad_token_id=None, bos_token_id=None, eos_token_id=None, mask_token_id=mask_id
    )
    theirs = transformers.EuroBertForMaskedLM(config)
    state = ours.state_dict()
    vector = state.pop("model.mask")
    state["model.embed_tokens.weight"] = torch.cat([state["model.embed_tokens.weight"], vector[None]])
    state["lm_head.weight"] = torch.cat([state["lm_head.weight"], torch.zeros(1, 64)])
    theirs.load_state_dict(state, strict=True)
    batch = batch_of(masked, tokens(3, 17))
    assert batch.masked is not None
    target, loss_mask = batch.targets["lm_head"]
    assert 0 < batch.masked.sum() <= loss_mask.sum() == 3 * 5
    logits = theirs(torch.where(batch.masked, mask_id, batch.x)).logits[..., :CLASSES]
    reference = nn.functional.cross_entropy(logits[loss_mask], target[loss_mask])
    assert mean_loss(ours, masked, batch).item() == pytest.approx(reference.item(), rel=1e-5)
    ours.causal = True
    assert abs(mean_loss(ours, masked, batch) - reference) > 1e-3  # the comparison can fail


@pytest.mark.parametrize(("norm", "act", "rope"), [("ln", "gelu", None), ("rms", "relu", 10_000.0), ("ln", "swiglu", None)])
def test_layers_by_hand(norm: str, act: str, rope: float | None) -> None:
    """The other fields against formulas in torch's own functions, on a sequence of one unit."""
    shape = SHAPE.model_copy(update={"norm": norm, "act": act, "rope_theta": rope, "bias": True, "depth": 1})
    model = random_model(NEXT, shape)
    x = torch.tensor([[7]])
    p = {name.removeprefix("model.layers.0."): value for name, value in model.named_parameters()}

    def normed(h: torch.Tensor, name: str) -> torch.Tensor:
        if norm == "ln":
            return nn.functional.layer_norm(h, (64,), p[f"{name}.weight"], p[f"{name}.bias"], 1e-6)
        return h / (h.pow(2).mean(-1, keepdim=True) + 1e-6).sqrt() * p[f"{name}.weight"]

    def linear(h: torch.Tensor, name: str) -> torch.Tensor:
        return h @ p[f"{name}.weight"].T + p[f"{name}.bias"]

    h = p["model.embed_tokens.weight"][x]
    h = h + linear(linear(normed(h, "input_layernorm"), "self_attn.v_proj"), "self_attn.o_proj")  # it attends only to itself
    inner = normed(h, "post_attention_layernorm")
    up = linear(inner, "mlp.up_proj")
    acted = {"gelu": nn.functional.gelu, "relu": torch.relu}.get(
        act, lambda up: nn.functional.silu(linear(inner, "mlp.gate_proj")) * up
    )(up)
    expected = normed(h + linear(acted, "mlp.down_proj"), "model.norm")
    assert torch.allclose(model.model(model.model.embed(x, None), None, True), expected, atol=1e-4)


def test_positions_matter_only_by_rotation() -> None:
    x, y = torch.tensor([[3, 5, 9]]), torch.tensor([[5, 3, 9]])
    for rope, differs in ((10_000.0, True), (None, False)):
        model = random_model(NEXT, SHAPE.model_copy(update={"rope_theta": rope, "depth": 1}))
        last = [model.model(model.model.embed(ids, None), None, False)[0, -1] for ids in (x, y)]
        assert torch.allclose(*last, atol=1e-5) != differs


def test_documents_do_not_see_each_other() -> None:
    model, x = random_model(NEXT), tokens(1, 17, lowest=1)
    x[0, 0] = x[0, 6] = 0
    together = mean_loss(model, NEXT, whole := batch_of(NEXT, x, opener=0)) * 16
    apart = sum(mean_loss(model, NEXT, batch_of(NEXT, p, 0)) * (p.shape[1] - 1) for p in (x[:, :7], x[:, 6:]))
    # The token before the border still predicts the border itself; nothing else crosses it.
    assert abs(together - apart) < 1e-3
    mask = attention_mask(whole, causal=True)
    assert mask is not None
    assert not mask[0, 0, 6:, :6].any()
    assert not mask[0, 0].triu(1).any()


@pytest.mark.parametrize("kind", ["next_token", "masked_token"])
def test_padding_changes_nothing(kind: str) -> None:
    objective = load_objective(kind, {})
    model, x = random_model(objective), tokens(2, 17, lowest=1)
    together = batch_of(objective, [x[0], x[1, :9]])
    assert together.padded
    assert int(together.valid.sum()) == 16 + 8
    answers = model(together)
    for row, length in enumerate((16, 8)):
        alone = Batch(
            together.x[row : row + 1, :length], together.valid[row : row + 1, :length], None,
            None if together.masked is None else together.masked[row : row + 1, :length], None, together.targets, padded=False,
        )  # fmt: skip
        assert torch.allclose(model(alone)["lm_head"][0], answers["lm_head"][row, :length], atol=1e-4)
    assert not together.targets["lm_head"][1][1, 8:].any()


def test_initial_weights_are_the_same_everywhere() -> None:
    masked = load_objective("masked_token", {})
    models = [Model(SHAPE, masked, UnitShape(classes=CLASSES)) for _ in range(3)]
    for model, seed in zip(models, (1, 1, 2), strict=True):
        torch.manual_seed(int(torch.randint(1000, ())))  # torch's global generator must not matter
        initialise(model, seed)
    states = [model.state_dict() for model in models]
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])
    assert not torch.equal(states[0]["model.embed_tokens.weight"], states[2]["model.embed_tokens.weight"])
    assert states[0]["model.mask"].std() > 0.5


def test_an_unknown_option_of_an_objective_is_refused() -> None:
    with pytest.raises(InputError, match=r"objective.shift: .*next_token has these options: none"):
        load_objective("next_token", {"shift": 2})


def test_masked_pixels_same_loss_as_vitmae() -> None:
    """The encoder on visible units, and the loss on masked ones; the reference also has a class token."""
    transformers = pytest.importorskip("transformers")
    config = transformers.ViTMAEConfig(
        hidden_size=48, num_hidden_layers=2, num_attention_heads=4, intermediate_size=96, image_size=24, patch_size=4,
        num_channels=3, decoder_hidden_size=32, decoder_num_hidden_layers=1, decoder_num_attention_heads=4,
        decoder_intermediate_size=64, mask_ratio=0.75, norm_pix_loss=True, attn_implementation="eager", layer_norm_eps=1e-6,
    )  # fmt: skip
    torch.manual_seed(0)
    theirs = transformers.ViTMAEForPreTraining(config).eval()
    for parameter in theirs.parameters():
        parameter.data = torch.randn(parameter.shape) * 0.25
    images = torch.randn(2, 3, 24, 24)
    x = theirs.patchify(images)  # [2, 36, 48]
    masked = load_objective("masked_pixel", {})
    plans = [masked.plan(Units(row.numpy()), np.random.default_rng(seed)) for seed, row in enumerate(x)]
    batch = Batch.load(packed(plans), torch.device("cpu"))
    assert batch.visible is not None
    target, loss_mask = batch.targets["pixels"]
    noise = torch.ones(2, 36).scatter(1, batch.visible, torch.arange(9.0)[None].expand(2, -1) / 10)
    output = theirs(images, noise=noise)
    assert torch.equal(output.mask.bool(), loss_mask)
    loss, count = masked.loss(output.logits, target, loss_mask)
    assert (loss / count).item() == pytest.approx(output.loss.item(), rel=1e-5)
    raw, _ = masked.loss(output.logits, x, loss_mask)
    assert abs(raw / count - output.loss) > 1e-3  # the comparison can fail: pixels that are not normalised


def test_layers_equal_vits() -> None:
    """LayerNorm, GELU, biases and no rotation: a stock encoder's hidden states, on visible units of a plane."""
    transformers = pytest.importorskip("transformers")
    config = transformers.ViTMAEConfig(
        hidden_size=64, num_hidden_layers=2, num_attention_heads=4, intermediate_size=96, attn_implementation="eager",
        layer_norm_eps=1e-6,
    )  # fmt: skip
    torch.manual_seed(0)
    from transformers.models.vit_mae.modeling_vit_mae import ViTMAELayer

    theirs = [ViTMAELayer(config).eval() for _ in range(2)]
    for parameter in [p for layer in theirs for p in layer.parameters()]:
        parameter.data = torch.randn(parameter.shape) * 0.25
    shape = SHAPE.model_copy(update={"norm": "ln", "act": "gelu", "rope_theta": None, "bias": True})
    ours = Layers(shape, (4, 4))
    names = {
        "attention.q_proj": "self_attn.q_proj", "attention.k_proj": "self_attn.k_proj", "attention.v_proj": "self_attn.v_proj",
        "attention.o_proj": "self_attn.o_proj", "layernorm_before": "input_layernorm",
        "layernorm_after": "post_attention_layernorm", "mlp.fc1": "mlp.up_proj", "mlp.fc2": "mlp.down_proj",
    }  # fmt: skip
    for own, layer in zip(ours.layers, theirs, strict=True):
        state = {}
        for name, value in layer.state_dict().items():
            (found,) = [(a, b) for a, b in names.items() if name.startswith(a + ".")]
            state[name.replace(*found)] = value
        own.load_state_dict(state)
    h, visible = torch.randn(2, 16, 64), torch.tensor([[1, 4, 9], [0, 2, 15]])
    expected = (h + ours.positions).gather(1, visible[..., None].expand(-1, -1, 64))
    for layer in theirs:
        found = layer(expected)
        expected = found[0] if isinstance(found, tuple) else found
    assert torch.allclose(ours(h, None, False, visible), ours.norm(expected), atol=1e-4)
    assert not torch.allclose(ours(h, None, False, visible.flip(1)), ours.norm(expected), atol=1e-2)


def test_masked_patches_same_loss_as_patchtst() -> None:
    """The normalisation of a window, the number of masked patches, and the loss."""
    transformers = pytest.importorskip("transformers")
    config = transformers.PatchTSTConfig(
        num_input_channels=1, context_length=48, patch_length=8, patch_stride=8, d_model=32, num_hidden_layers=2,
        num_attention_heads=4, ffn_dim=64, norm_type="layernorm", random_mask_ratio=0.4, do_mask_input=True, scaling="std",
    )  # fmt: skip
    torch.manual_seed(0)
    theirs = transformers.PatchTSTForPretraining(config).eval()
    window = torch.randn(1, 48, 1) * 3 + 5
    output = theirs(past_values=window)
    series: Any = load_modality("series", {"patch": 8})
    units = series.units({"values": window.flatten().tolist()}, 6, None)
    plan = load_objective("masked_patch", {}).plan(units, np.random.default_rng(0))
    assert plan.masked is not None
    masked = theirs.model(past_values=window).mask.reshape(6)
    assert masked.sum() == plan.masked.sum() == 3
    torch.manual_seed(1)
    again = theirs.model(past_values=window)
    torch.manual_seed(1)
    reference = theirs(past_values=window)
    loss_mask = again.mask.reshape(1, 6).bool()
    loss, count = squared_error(reference.prediction_output.reshape(1, 6, 8), torch.from_numpy(units.x)[None], loss_mask)
    assert (loss / count).item() == pytest.approx(reference.loss.item(), rel=1e-5)
    wrong, _ = squared_error(reference.prediction_output.reshape(1, 6, 8), window.reshape(1, 6, 8), loss_mask)
    assert abs(wrong / count - reference.loss) > 1e-3  # the comparison can fail: a window that is not normalised
    assert output.loss is not None
