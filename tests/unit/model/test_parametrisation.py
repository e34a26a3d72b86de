"""CompleteP: the factors on each parameter, and their effect."""

from __future__ import annotations

from typing import Any

import pytest
from tests.unit.objectives.specs import SPECS

from foundray.errors import InputError
from foundray.model.model import Model
from foundray.model.parametrisation import Scaling
from foundray.spec import Spec
from foundray.spec.optimizers import KINDS
from foundray.testing.groups import run_group
from foundray.testing.specs import make_spec
from foundray.testing.trainers import VOCABULARY, make_trainer, micro_batch, train_steps
from foundray.training.collectives.group import Group
from foundray.tuning.search.proxy import at_size
from foundray.tuning.transfer.coordinates import Coordinates, check

PIXELS: dict[str, Any] = {
    "data": {"sources": [{"path": "x", "format": "files"}], "modality": {"kind": "image", "size": 16, "patch": 4}},
    "model__context": 16, "model__width": 64, "model__heads": 4, "model__base_width": 16,
}  # fmt: skip

WIDTHS = (32, 256)


def sized(width: int, depth: int = 2, **changes: Any) -> Spec:
    return make_spec(model__width=width, model__heads=width // 16, model__depth=depth, **changes)


def scalings(spec: Spec) -> dict[str, Scaling]:
    return dict(Model(spec.model, spec.objective.build(), spec.unit_shape(VOCABULARY)).scalings)


def test_scalings_are_those_of_the_table() -> None:
    """Four times the base's width and three times its depth: m = 4, mL = 3."""
    found = scalings(sized(64, 6, model__base_width=16, model__base_depth=2, model__bias=True))
    vector = Scaling(weight_decay=0.0, eps=1 / 12)
    assert found["model.embed_tokens.weight"] == Scaling(eps=1 / 4)
    assert found["lm_head.weight"] == Scaling(eps=1 / 4)
    assert found["model.norm.weight"] == Scaling(weight_decay=0.0, eps=1 / 4)
    for layer in range(6):
        for name in ("self_attn.q_proj", "self_attn.o_proj", "mlp.gate_proj", "mlp.down_proj"):
            assert found[f"model.layers.{layer}.{name}.weight"] == Scaling(lr=1 / 4, weight_decay=4, eps=1 / 12)
            assert found[f"model.layers.{layer}.{name}.bias"] == vector
        assert found[f"model.layers.{layer}.input_layernorm.weight"] == vector


def test_predictors_stems_and_other_heads_are_scaled_alike() -> None:
    found = scalings(make_spec(**PIXELS, objective={"kind": "masked_pixel"}, model__predictor={"width": 32, "heads": 4}))
    assert found["model.embed_values.weight"].lr == found["pixels.weight"].lr == 1
    assert found["predictor.into.weight"] == Scaling(lr=1 / 4, weight_decay=4, eps=1 / 4)
    assert found["predictor.layers.0.mlp.up_proj.weight"] == Scaling(lr=1 / 4, weight_decay=4, eps=1 / 4)
    of_pairs = make_spec(**PIXELS, objective={"kind": "vicreg"})
    model = Model(of_pairs.model, of_pairs.objective.build(), of_pairs.unit_shape(0))
    (head,) = model.heads
    assert model.scalings[f"{head}.0.weight"] == Scaling(eps=1 / 4)
    assert model.get_submodule(f"{head}.0").width_mult == 4


def test_a_model_of_the_bases_size_is_the_standard_one() -> None:
    plain = train_steps(Group(), sized(32), 3, None)
    assert train_steps(Group(), sized(32, model__base_width=32, model__base_depth=2), 3, None) == plain
    assert train_steps(Group(), sized(32, model__base_width=16), 3, None) != plain
    assert train_steps(Group(), sized(32, model__base_depth=1), 3, None) != plain


@pytest.mark.parametrize(
    "kind", [pytest.param(kind, marks=() if kind == "adamw8bit" else pytest.mark.thorough) for kind in KINDS]
)
def test_scaled_learning_rates_give_the_same_bits_for_any_number_of_workers(kind: str) -> None:
    spec = sized(32, 4, model__base_width=16, model__base_depth=2, optimizer__kind=kind)
    alone = train_steps(Group(), spec, 3, None)
    assert set(map(str, run_group(3, train_steps, spec, 3, 1))) == {str(alone)}


def test_matrices_move_by_their_learning_rate() -> None:
    """Adam's first update is as large as the learning rate, in each element."""
    spec = sized(64, 2, model__base_width=16, optimizer__kind="adamw", optimizer__weight_decay=0.0, schedule__warmup=0.0)
    trainer = make_trainer(spec, Group())
    before = {name: parameter.detach().clone() for name, parameter in trainer.model.named_parameters()}
    per_step = spec.train.micro_batches
    result = trainer.step(0, [(i, micro_batch(spec, i)) for i in range(per_step)])
    moved = {name: (parameter - before[name]).abs().max().item() for name, parameter in trainer.model.named_parameters()}
    assert moved["lm_head.weight"] == pytest.approx(result.lr, rel=0.01)
    # Only the head, which starts at zero, has a gradient in the first step.
    result = trainer.step(1, [(i, micro_batch(spec, i)) for i in range(per_step, 2 * per_step)])
    after = {name: parameter.detach() for name, parameter in trainer.model.named_parameters()}
    for name, rate in (("model.layers.0.mlp.up_proj.weight", 1 / 4), ("model.layers.1.input_layernorm.weight", 1.0)):
        # In the second update, an element without an earlier gradient moves by (1 - b1) / sqrt(1 - b2), both bias-corrected.
        b1, b2 = spec.optimizer.betas
        length = (1 - b1) / (1 - b1**2) / ((1 - b2) / (1 - b2**2)) ** 0.5
        assert (after[name] - before[name]).abs().max().item() == pytest.approx(result.lr * rate * length, rel=0.02)


def coordinates(spec: Spec) -> tuple[Coordinates, Coordinates]:
    """Changes at two widths: under CompleteP, and under the standard parametrisation. At the smaller width, these are one."""
    flat = {"kind": "constant", "warmup": 0.0}
    changed = spec.model_copy(
        update={
            "optimizer": spec.optimizer.model_copy(update={"lr": 0.02, "weight_decay": 0.0}),
            "schedule": spec.schedule.model_copy(update=flat),
        }
    )
    sizes = ((WIDTHS[0], None), (WIDTHS[1], WIDTHS[0]), (WIDTHS[1], None))
    models = [spec.model.of_width(width).model_copy(update={"base_width": base}) for width, base in sizes]
    per_step = spec.train.micro_batches
    given = [[micro_batch(spec, step * per_step + i) for i in range(per_step)] for step in range(4)]
    found = check([(model.width, at_size(changed, model, 4)) for model in models], VOCABULARY, given).changes
    ours, standard = ({part: [sizes[0], sizes[wide]] for part, sizes in found.items()} for wide in (1, 2))
    return Coordinates(WIDTHS, ours), Coordinates(WIDTHS, standard)


@pytest.mark.parametrize("name", SPECS)
def test_activations_change_alike_at_every_width(name: str) -> None:
    """The standard parametrisation is the control: its changes grow with the width."""
    ours, standard = coordinates(SPECS[name])
    assert ours.steady, ours.exponents()
    assert not standard.steady
    assert max(standard.exponents().values()) > 0.5 > 2 * max(ours.exponents().values())


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"model__base_width": 24}, "heads keep their size, 16, so the width must be a multiple of it, not 24"),
        ({"model__base_width": 0}, "model.base_width: input should be greater than 0"),
    ],
)
def test_an_impossible_base_is_refused(changes: dict[str, Any], sentence: str) -> None:
    with pytest.raises(InputError, match=sentence):
        sized(64, **changes)
