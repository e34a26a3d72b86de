"""Root mean squares by layer: as of the tensors themselves, from the sums that a step has anyway."""

from __future__ import annotations

import pytest
import torch

from foundray.testing.specs import make_spec
from foundray.testing.trainers import make_trainer, micro_batch
from foundray.training.evaluating.health import health, layer_of


def test_they_are_those_of_the_tensors() -> None:
    spec = make_spec(optimizer__clip=None)
    trainer = make_trainer(spec)
    assert all("gradient_rms" not in one for one in health(trainer.layout, trainer.squares, trainer.flat))
    for step in range(2):  # the first moves the head alone, which begins at zero
        found = trainer.step(step, [(at, micro_batch(spec, at)) for at in range(step * 5, step * 5 + 5)])
    seen = {one["layer"]: one for one in health(trainer.layout, trainer.squares, trainer.flat)}
    assert list(seen) == ["embed_tokens", "layers.0", "layers.1", "lm_head", "norm"]
    counts = dict.fromkeys(seen, 0)
    for name, weights in trainer.flat.named().items():
        counts[layer_of(name)] += weights.numel()
    of_layer = torch.cat([w.flatten() for name, w in trainer.flat.named().items() if layer_of(name) == "layers.1"])
    assert seen["layers.1"]["weight_rms"] == pytest.approx(float(of_layer.double().square().mean().sqrt()), rel=1e-6)
    whole = sum(float(one["gradient_rms"]) ** 2 * counts[layer] for layer, one in seen.items()) ** 0.5
    assert whole == pytest.approx(found.grad_norm, rel=1e-6)
    assert min(float(one["gradient_rms"]) for one in seen.values()) > 0


def test_a_parameter_belongs_to_its_layer() -> None:
    names = [
        "model.layers.11.mlp.up_proj.weight",
        "predictor.layers.0.mlp.up_proj.weight",
        "model.norm.weight",
        "lm_head.weight",
    ]
    assert [layer_of(name) for name in names] == ["layers.11", "predictor.layers.0", "norm", "lm_head"]
