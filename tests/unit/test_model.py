"""The model against Hugging Face's: same names, same weights in, same loss out."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from foundray.batch import packed
from foundray.contract import Objective, Units, load_objective
from foundray.errors import InputError
from foundray.model.model import Batch, Model, attention_mask, initialise
from foundray.spec import Model as Shape

SHAPE = Shape(width=64, depth=2, heads=4, context=16, hidden=96)
CLASSES = 50
CONFIG: dict[str, Any] = {
    "vocab_size": CLASSES, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 4, "tie_word_embeddings": False, "rms_norm_eps": 1e-6, "rope_theta": 10_000.0,
    "attn_implementation": "eager",
}  # fmt: skip


def batch_of(objective: Objective, rows: Any, opener: int = -1, seed: int = 0) -> Batch:
    """Rows of ids, planned; a document begins at each `opener`."""
    chance = np.random.default_rng(seed)
    rows = [np.asarray(row, np.int64) for row in rows]
    plans = [objective.plan(Units(row, np.cumsum(row == opener), CLASSES), chance) for row in rows]
    return Batch.load(packed(plans), torch.device("cpu"))


def random_model(objective: Objective, shape: Shape = SHAPE) -> Model:
    """Weights far from zero, so that a wrong formula shows."""
    torch.manual_seed(0)
    model = Model(shape, objective, CLASSES)
    for parameter in model.parameters():
        parameter.data = torch.randn(parameter.shape) * 0.25 + (parameter.dim() < 2)
    return model


def mean_loss(model: Model, objective: Objective, batch: Batch) -> torch.Tensor:
    answers = model(batch)
    sums = [objective.loss(answers[head], *asked) for head, asked in batch.asks.items()]
    return sum(loss for loss, _ in sums) / sum(count for _, count in sums)


NEXT = load_objective("next_token", {})


def tokens(rows: int, length: int, lowest: int = 0) -> torch.Tensor:
    return torch.randint(lowest, CLASSES, (rows, length), generator=torch.Generator().manual_seed(1))


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
    wrong = Model(shape.model_copy(update={"rope_theta": 5_000.0}), NEXT, CLASSES)
    wrong.load_state_dict(ours.state_dict())
    assert abs(mean_loss(wrong, NEXT, batch_of(NEXT, x)) - reference) > 1e-3  # the comparison can fail


def test_masked_tokens_same_loss_as_eurobert() -> None:
    """Its mask is a row of the embedding table; ours is a vector of its own."""
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
    assert batch.hidden is not None
    target, where = batch.asks["lm_head"]
    assert 0 < batch.hidden.sum() <= where.sum() == 3 * 5
    logits = theirs(torch.where(batch.hidden, mask_id, batch.x)).logits[..., :CLASSES]
    reference = nn.functional.cross_entropy(logits[where], target[where])
    assert mean_loss(ours, masked, batch).item() == pytest.approx(reference.item(), rel=1e-5)
    ours.causal = True
    assert abs(mean_loss(ours, masked, batch) - reference) > 1e-3  # the comparison can fail


@pytest.mark.parametrize(("norm", "act", "rope"), [("ln", "gelu", None), ("rms", "relu", 10_000.0), ("ln", "swiglu", None)])
def test_layers_by_hand(norm: str, act: str, rope: float | None) -> None:
    """The other flags against formulas written down with torch's own functions, on a sequence of one unit."""
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
    h = h + linear(linear(normed(h, "input_layernorm"), "self_attn.v_proj"), "self_attn.o_proj")  # it attends to itself alone
    inner = normed(h, "post_attention_layernorm")
    up = linear(inner, "mlp.up_proj")
    acted = {"gelu": nn.functional.gelu, "relu": torch.relu}.get(
        act, lambda up: nn.functional.silu(linear(inner, "mlp.gate_proj")) * up
    )(up)
    expected = normed(h + linear(acted, "mlp.down_proj"), "model.norm")
    assert torch.allclose(model.model(x, None, None, True), expected, atol=1e-4)


def test_positions_matter_only_by_rotation() -> None:
    x, y = torch.tensor([[3, 5, 9]]), torch.tensor([[5, 3, 9]])
    for rope, differs in ((10_000.0, True), (None, False)):
        model = random_model(NEXT, SHAPE.model_copy(update={"rope_theta": rope, "depth": 1}))
        last = [model.model(ids, None, None, False)[0, -1] for ids in (x, y)]
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
            None if together.hidden is None else together.hidden[row : row + 1, :length], together.asks, padded=False,
        )  # fmt: skip
        assert torch.allclose(model(alone)["lm_head"][0], answers["lm_head"][row, :length], atol=1e-4)
    assert not together.asks["lm_head"][1][1, 8:].any()


def test_weights_start_the_same_everywhere() -> None:
    masked = load_objective("masked_token", {})
    models = [Model(SHAPE, masked, CLASSES) for _ in range(3)]
    for model, seed in zip(models, (1, 1, 2), strict=True):
        torch.manual_seed(int(torch.randint(1000, ())))  # the process's own generator must not matter
        initialise(model, seed)
    states = [model.state_dict() for model in models]
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])
    assert not torch.equal(states[0]["model.embed_tokens.weight"], states[2]["model.embed_tokens.weight"])
    assert states[0]["model.mask"].std() > 0.5


def test_an_unknown_option_of_an_objective_is_refused() -> None:
    with pytest.raises(InputError, match=r"objective.shift: .*next_token has these options: none"):
        load_objective("next_token", {"shift": 2})
