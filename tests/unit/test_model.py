"""The backbone against Hugging Face's Llama: same names, same weights in, same loss out."""

import pytest
import torch

from foundray.contract import Units, load_objective
from foundray.errors import InputError
from foundray.model.decoder import Model, document_mask, initialise
from foundray.spec import Model as Shape

SHAPE = Shape(width=64, depth=2, heads=4, context=16, hidden=96)


def units(x: torch.Tensor, document_id: int = -1) -> Units:
    document = (x == document_id).long().cumsum(1)
    return Units(x, document, torch.ones_like(x, dtype=torch.bool), mixed=bool((document[:, -1] > document[:, 0]).any()))


def loss_of(model: Model, x: torch.Tensor, document_id: int = -1) -> torch.Tensor:
    objective = load_objective("next_token", {})
    plan = objective.plan(units(x, document_id), torch.Generator())
    loss, weight = objective.loss(model(plan)[0], plan.asks[0])
    return loss / weight


def random_model(shape: Shape = SHAPE) -> Model:
    """Weights far from zero, so that a wrong formula shows."""
    torch.manual_seed(0)
    model = Model(shape, 50, {"lm_head": 50})
    for parameter in model.parameters():
        parameter.data = torch.randn(parameter.shape) * 0.25 + (parameter.dim() < 2)
    return model


def test_same_loss_and_gradient_as_llama() -> None:
    transformers = pytest.importorskip("transformers")
    config = transformers.LlamaConfig(
        vocab_size=50, hidden_size=64, intermediate_size=96, num_hidden_layers=2, num_attention_heads=4,
        tie_word_embeddings=False, rms_norm_eps=1e-6, rope_theta=10_000.0,
    )  # fmt: skip
    ours, theirs = random_model(), transformers.LlamaForCausalLM(config)
    theirs.load_state_dict(ours.state_dict())  # strict: every name is Llama's
    x = torch.randint(0, 50, (3, 17))
    loss, reference = loss_of(ours, x), theirs(x, labels=x).loss
    assert abs(loss - reference) < 1e-5
    loss.backward()
    reference.backward()
    for (name, a), b in zip(ours.named_parameters(), theirs.parameters(), strict=True):
        assert torch.allclose(a.grad, dict(theirs.named_parameters())[name].grad, atol=1e-4), name
        assert b.grad is not None
    wrong = Model(SHAPE.model_copy(update={"rope_theta": 5_000.0}), 50, {"lm_head": 50})
    wrong.load_state_dict(ours.state_dict())
    assert abs(loss_of(wrong, x) - reference) > 1e-3  # the comparison can fail


def test_documents_do_not_see_each_other() -> None:
    model, x = random_model(), torch.randint(1, 50, (1, 17))
    x[0, 0] = x[0, 6] = 0
    packed, separate = x, [x[:, :7], x[:, 6:]]
    together = loss_of(model, packed, document_id=0) * 16
    apart = sum(loss_of(model, part, document_id=0) * (part.shape[1] - 1) for part in separate)
    # The token before the border still predicts the border itself; nothing else crosses it.
    assert abs(together - apart) < 1e-3
    mask = document_mask(load_objective("next_token", {}).plan(units(x, 0), torch.Generator()))
    assert not mask[0, 0, 6:, :6].any()
    assert not mask[0, 0].triu(1).any()


def test_padding_changes_nothing() -> None:
    model, x = random_model(), torch.randint(1, 50, (2, 17))
    objective = load_objective("next_token", {})
    valid = torch.ones(2, 17, dtype=torch.bool)
    valid[1, 9:] = False
    plan = objective.plan(Units(x * valid, torch.zeros_like(x), valid, mixed=False), torch.Generator())
    loss, weight = objective.loss(model(plan)[0], plan.asks[0])
    assert weight == 16 + 8
    assert torch.allclose(loss, loss_of(model, x[:1]) * 16 + loss_of(model, x[1:, :9]) * 8, atol=1e-3)


def test_weights_start_the_same_everywhere() -> None:
    models = [Model(SHAPE, 50, {"lm_head": 50}) for _ in range(3)]
    for model, seed in zip(models, (1, 1, 2), strict=True):
        torch.manual_seed(int(torch.randint(1000, ())))  # the process's own generator must not matter
        initialise(model, seed)
    states = [model.state_dict() for model in models]
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])
    assert not torch.equal(states[0]["model.embed_tokens.weight"], states[2]["model.embed_tokens.weight"])


def test_an_unknown_option_of_an_objective_is_refused() -> None:
    with pytest.raises(InputError, match=r"objective.shift: .*next_token has these options: none"):
        load_objective("next_token", {"shift": 2})
