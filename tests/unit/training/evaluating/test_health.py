"""A layer's health: as of the tensors themselves, and the same whichever worker saw what."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from foundray.contract import Units
from foundray.data.stream.batch import packed
from foundray.model.model import Batch
from foundray.spec import Spec
from foundray.testing.groups import run_group
from foundray.testing.specs import make_spec
from foundray.testing.trainers import make_team_trainer, make_trainer, micro_batch
from foundray.training.collectives.group import Group
from foundray.training.evaluating.activations import Activations, largest_logit
from foundray.training.evaluating.evaluation import evaluate
from foundray.training.evaluating.health import health, layer_of
from foundray.training.step.trainer import Trainer

MASKED = {"objective": {"kind": "masked_token"}}
PIXELS = {
    "objective": {"kind": "masked_pixel"},
    "data__modality": {"kind": "image", "size": 16, "patch": 4, "channels": 1},
    "data__sources": [{"path": "x", "format": "files"}],
    "model__context": 16,
}


def stepped(trainer: Trainer, spec: Spec, count: int, rank: int = 0, world: int = 1) -> Any:
    per_step = spec.train.micro_batches
    for step in range(count):
        mine = range(step * per_step + rank, (step + 1) * per_step, world)
        result = trainer.step(step, [(at, micro_batch(spec, at)) for at in mine])
    return result


@pytest.mark.parametrize("kind", ["adamw8bit", "lion8bit"])
def test_root_mean_squares_are_those_of_the_tensors(kind: str) -> None:
    """Whatever the update does to what fills parameters up to whole blocks: that of `lion8bit` moves it as far as weights."""
    spec = make_spec(optimizer__kind=kind, optimizer__clip=None, train__evaluate_every=4)
    trainer = make_trainer(spec)
    assert all(set(one) == {"layer", "weight_rms"} for one in health(trainer, {}))
    stepped(trainer, spec, 3)  # the first one moves the head alone, which begins at zero
    assert trainer.update_squares is None, "no evaluation follows"
    before = {name: weights.clone() for name, weights in trainer.flat.named().items()}
    found = trainer.step(3, [(at, micro_batch(spec, at)) for at in range(15, 20)])
    seen = {str(one["layer"]): one for one in health(trainer, {})}
    assert list(seen) == ["embed_tokens", "layers.0", "layers.1", "lm_head", "norm"]
    after = trainer.flat.named()
    for layer, one in seen.items():
        names = [name for name in after if layer_of(name) == layer]
        assert one["weight_rms"] == pytest.approx(rms([after[name] for name in names]), rel=1e-6)
        assert one["update_rms"] == pytest.approx(rms([after[name] - before[name] for name in names]), rel=1e-4)
    counts = {layer: sum(after[name].numel() for name in after if layer_of(name) == layer) for layer in seen}
    whole = sum(float(one["gradient_rms"]) ** 2 * counts[layer] for layer, one in seen.items()) ** 0.5
    assert whole == pytest.approx(found.grad_norm, rel=1e-6)
    assert min(float(one[name]) for one in seen.values() for name in ("gradient_rms", "update_rms")) > 0


def rms(tensors: list[torch.Tensor]) -> float:
    return float(torch.cat([tensor.detach().flatten() for tensor in tensors]).double().square().mean().sqrt())


@pytest.mark.parametrize("mask", ["causal", "given", "all"])
def test_the_largest_logit_is_that_of_pairs_that_attend(mask: str, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    q, k = torch.randn(3, 2, 5, 4), torch.randn(3, 2, 5, 4)
    allowed = {
        "causal": torch.ones(5, 5, dtype=torch.bool).tril().expand(3, 1, 5, 5),
        "given": (torch.rand(3, 1, 5, 5) > 0.5) | torch.eye(5, dtype=torch.bool),
        "all": torch.ones(3, 1, 5, 5, dtype=torch.bool),
    }[mask]
    valid = torch.arange(5) < torch.tensor([[5], [2], [4]])
    logits = torch.einsum("bhid,bhjd->bhij", q, k) / 2
    wanted = logits[(allowed & valid[:, None, :, None]).expand_as(logits)].max()
    arguments = q, k, allowed if mask == "given" else None, mask == "causal", valid
    assert largest_logit(*arguments) == pytest.approx(float(wanted), rel=1e-6)
    monkeypatch.setattr("foundray.training.evaluating.activations.LOGITS", 1)  # one head of one sample at a time
    assert largest_logit(*arguments) == pytest.approx(float(wanted), rel=1e-6)


@pytest.mark.parametrize("act", ["relu", "gelu", "swiglu"])
def test_dead_units_are_those_that_hand_nothing_on(act: str) -> None:
    spec = make_spec(model__act=act, model__bias=True)
    trainer = make_trainer(spec)
    feed = trainer.model.model.layers[1].mlp
    with torch.no_grad():  # three units can never be active, and a fourth is for every token
        gate = feed.gate_proj if act == "swiglu" else feed.up_proj
        for unit, bias in ((0, -50.0), (1, -50.0), (2, -50.0), (3, 50.0)):
            gate.weight[unit], gate.bias[unit] = 0, bias
    watched = Activations(trainer.model)
    evaluate(trainer, [(0, micro_batch(spec, 0))], activations=watched)
    found = watched.found(Group())
    units = spec.model.hidden_width
    assert found["layers.1"].dead_units == pytest.approx(3 / units)
    assert not watched.active["layers.1"][:3].any() and watched.active["layers.1"][3:].all()
    assert found["layers.0"].dead_units == 0


@pytest.mark.parametrize("fields", [{}, MASKED, PIXELS, {**PIXELS, "model__class_unit": True}], ids=str)
def test_watching_changes_no_loss_and_sees_what_attention_computes(fields: dict[str, Any]) -> None:
    spec = make_spec(**fields)
    trainer = make_trainer(spec)
    batches = [(at, micro_batch(spec, at)) for at in range(3)]
    watched = Activations(trainer.model)
    assert evaluate(trainer, batches, activations=watched) == evaluate(trainer, batches)
    layers = [f"layers.{i}" for i in range(spec.model.depth)]
    if trainer.model.predictor:
        layers += [f"predictor.layers.{i}" for i in range(len(trainer.model.predictor.layers))]
    found = watched.found(Group())
    assert list(found) == layers
    assert found["layers.0"].attention_logit_max == pytest.approx(by_hand(trainer, batches), rel=1e-5)


def test_compiled_layers_are_watched_without_their_code() -> None:
    """It passes hooks by. The loss stays that of the compiled code."""
    spec, found = make_spec(**PIXELS), []
    for compiled in (False, True):
        trainer = make_trainer(spec)
        for layer in (*trainer.model.model.layers, *trainer.model.predictor.layers) if compiled else ():
            layer.compile(backend="eager", dynamic=False)
        batches = [(at, micro_batch(spec, at)) for at in range(2)]
        before = evaluate(trainer, batches)
        watched = Activations(trainer.model)
        assert evaluate(trainer, batches, activations=watched) == before
        found.append(watched.found(Group()))
    assert found[0] == found[1]


def by_hand(trainer: Trainer, batches: list[tuple[int, bytes]]) -> float:
    """The first layer's largest logit: of what torch's own attention is given."""
    found, original = list[float](), F.scaled_dot_product_attention

    def spied(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, attn_mask: Any = None, is_causal: bool = False) -> Any:
        shape = (*q.shape[:-1], k.shape[-2])
        allowed = torch.ones(shape, dtype=torch.bool).tril() if is_causal else torch.ones(shape, dtype=torch.bool)
        if attn_mask is not None:
            allowed = allowed & attn_mask
        rows = valid if valid is not None and valid.shape[-1] == q.shape[-2] else torch.ones(q.shape[0], q.shape[-2]) > 0
        logits = (q @ k.mT) * q.shape[-1] ** -0.5
        found.append(float(logits[allowed & rows[:, None, :, None]].max()))
        return original(q, k, v, attn_mask=attn_mask, is_causal=is_causal)

    largest = []
    with pytest.MonkeyPatch.context() as patch, torch.no_grad():
        patch.setattr(F, "scaled_dot_product_attention", spied)
        for _, payload in batches:
            batch = Batch.load(payload, trainer.device)
            valid = F.pad(batch.valid, (1, 0), value=True) if trainer.model.shape.class_unit else batch.valid
            found.clear()
            trainer.model.encode(batch)
            largest.append(found[0])
    return max(largest)


def healthy(group: Group, spec: Spec, team: int | None = None) -> list[dict[str, str | float]]:
    trainer = make_team_trainer(spec, group, team) if team else make_trainer(spec, group)
    stepped(trainer, spec, 2, group.rank, group.world)
    watched = Activations(trainer.model)
    evaluate(trainer, [(at, micro_batch(spec, at)) for at in range(group.rank, 5, group.world)], activations=watched)
    return health(trainer, watched.found(group))


def test_it_is_the_same_for_one_two_and_three_workers() -> None:
    spec = make_spec(train__evaluate_every=2)
    alone = healthy(Group(), spec)
    assert {"weight_rms", "gradient_rms", "update_rms", "attention_logit_max", "dead_units"} < set(alone[1])
    for world in (2, 3):
        for of_worker in run_group(world, healthy, spec):
            assert of_worker == alone


@pytest.mark.parametrize("fields", [{}, {**PIXELS, "objective": {"kind": "joint_embedding", "masking": "drop"}}], ids=str)
def test_it_is_the_same_for_teams(fields: dict[str, Any]) -> None:
    """Also with a predictor, whose layers are watched in another pass, and a teacher, whose layers are not watched."""
    spec = make_spec(train__evaluate_every=2, **fields)
    alone = healthy(Group(), spec)
    for teams, size in ((1, 2), (2, 2)):
        assert run_group(teams * size, healthy, spec, size) == [alone] * teams * size, (teams, size)


def test_padding_counts_for_nothing() -> None:
    spec = make_spec()
    trainer = make_trainer(spec)
    rng = np.random.default_rng(0)
    objective, shape = spec.objective.build(), spec.unit_shape(40)
    plans = [objective.plan(Units(rng.integers(1, 40, n), None, shape), rng) for n in (9, 4)]
    seen = []
    for batches in ([packed(plans)], [packed([plan]) for plan in plans]):
        watched = Activations(trainer.model)
        evaluate(trainer, list(enumerate(batches)), activations=watched)
        seen.append(watched.found(Group())["layers.0"].attention_logit_max)
    assert seen[0] == pytest.approx(seen[1], rel=1e-5)


def test_a_parameter_belongs_to_its_layer() -> None:
    names = [
        "model.layers.11.mlp.up_proj.weight",
        "predictor.layers.0.mlp.up_proj.weight",
        "model.norm.weight",
        "lm_head.weight",
    ]
    assert [layer_of(name) for name in names] == ["layers.11", "predictor.layers.0", "norm", "lm_head"]
