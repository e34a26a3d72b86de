"""Each objective's input and targets, in examples and as properties; and the same bits for one and three workers."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from tests.unit.objectives.specs import SPECS, TOKEN_OBJECTIVES

from foundray.contract import (
    Objective,
    Plan,
    Units,
    UnitShape,
    cross_entropy,
    load_objective,
    squared_error,
)
from foundray.model.model import Batch
from foundray.testing.groups import run_group
from foundray.testing.trainers import make_model, micro_batch, train_steps
from foundray.training.collectives.group import Group
from foundray_objectives.masked_frame import quantiser, spans
from foundray_objectives.next_token import NextToken

CLASSES = 100


def units(*ids: int, opener: int = -1) -> Units:
    x = np.array(ids, np.int64)
    return Units(x, np.cumsum(x == opener), UnitShape(classes=CLASSES))


def planned(objective: Objective, data: Units, seed: int = 0) -> Plan:
    return objective.plan(data, np.random.default_rng(seed))


def test_next_token_by_hand() -> None:
    plan = planned(load_objective("next_token", {}), units(5, 6, 7))
    (target,) = plan.targets
    assert (plan.units.x.tolist(), target.values.tolist(), target.loss_mask) == ([5, 6], [6, 7], None)


def values(length: int, width: int = 4) -> Units:
    return Units(np.random.default_rng(9).standard_normal((length, width)).astype(np.float32))


def test_masked_pixel_predicts_the_patches_that_it_drops() -> None:
    plan = planned(load_objective("masked_pixel", {}), data := values(16))
    (target,) = plan.targets
    assert plan.visible is not None
    assert target.loss_mask is not None
    assert sorted([*plan.visible, *np.flatnonzero(target.loss_mask)]) == list(range(16))
    assert len(plan.visible) == 4
    by_hand = (data.x[3] - data.x[3].mean()) / np.sqrt(((data.x[3] - data.x[3].mean()) ** 2).sum() / 3 + 1e-6)
    assert np.allclose(target.values[3], by_hand, atol=1e-6)


def test_next_patch_by_hand() -> None:
    data = Units(np.array([[0.0, 2.0], [1.0, 5.0], [3.0, 3.0]], np.float32))
    (target,) = planned(load_objective("next_patch", {}), data).targets
    assert target.loss_mask is not None
    assert target.loss_mask.tolist() == [True, True, False]
    assert np.allclose(target.values[:2], [[-(0.5**0.5), 0.5**0.5], [0.0, 0.0]], atol=1e-5)
    prediction = torch.tensor([[[0.0, 0.0], [1.0, 3.0], [9.0, 9.0]]])
    loss, count = squared_error(prediction, torch.from_numpy(target.values)[None], torch.from_numpy(target.loss_mask)[None])
    assert (loss.item(), count.item()) == (pytest.approx(0.5 + (1 + 9) / 2, abs=1e-4), 2)


def test_masked_patch_predicts_what_it_masks() -> None:
    plan = planned(load_objective("masked_patch", {}), data := values(10))
    (target,) = plan.targets
    assert plan.masked is not None
    assert plan.masked.sum() == 4
    assert np.array_equal(target.loss_mask, plan.masked)
    assert np.array_equal(target.values, data.x)


def test_next_frame_by_hand() -> None:
    data = Units(np.array([[0.0, 2.0], [1.0, 5.0], [3.0, 3.0]], np.float32))
    objective = load_objective("next_frame", {"ahead": 1})
    (target,) = planned(objective, data).targets
    assert target.loss_mask is not None
    assert target.loss_mask.tolist() == [True, True, False]
    assert target.values[:2].tolist() == [[1.0, 5.0], [3.0, 3.0]]
    prediction = torch.tensor([[[0.0, 0.0], [1.0, 3.0], [9.0, 9.0]]])
    loss, count = objective.loss(prediction, torch.from_numpy(target.values)[None], torch.from_numpy(target.loss_mask)[None])
    assert (loss.item(), count.item()) == ((1 + 5) / 2 + (2 + 0) / 2, 2)
    (target,) = planned(load_objective("next_frame", {}), values(5)).targets
    assert target.loss_mask is not None
    assert target.loss_mask.tolist() == [True, True, False, False, False]
    assert np.array_equal(target.values[:2], values(5).x[3:])
    assert not planned(load_objective("next_frame", {}), data).targets[0].loss_mask.any(), "nothing comes after the end"  # type: ignore[union-attr]


def test_masked_frame_predicts_the_nearest_code_of_masked_units() -> None:
    options = {"codes": 7, "code_width": 3, "ratio": 0.3, "seed": 5}
    plan = planned(load_objective("masked_frame", options), data := values(3))
    projection, codebook = quantiser(4, 7, 3, 5)
    seen = [x @ projection / np.linalg.norm(x @ projection) for x in data.x]
    by_hand = [int(np.argmin([((code - vector) ** 2).sum() for code in codebook])) for vector in seen]
    (target,) = plan.targets
    assert target.values.tolist() == by_hand
    assert plan.masked is not None
    assert plan.masked.sum() == 1
    assert np.array_equal(target.loss_mask, plan.masked)
    assert np.array_equal(plan.units.x, data.x)
    other = planned(load_objective("masked_frame", options | {"seed": 6}), values(50)).targets[0].values
    assert not np.array_equal(other, planned(load_objective("masked_frame", options), values(50)).targets[0].values)


def test_lengths_of_masked_spans_follow_their_law() -> None:
    for length in range(1, 60):
        found = np.array([spans(length, 0.4, 5, np.random.default_rng(seed)) for seed in range(30)])
        masked = max(1, round(0.4 * length))
        assert found.shape == (30, length)
        assert (found.sum(1) == masked).all()
        runs = (np.diff(found, axis=1, prepend=False) & found).sum(1)
        assert runs.max() <= -(-masked // 5)
    at = np.mean([spans(60, 0.4, 5, np.random.default_rng(seed)) for seed in range(600)], 0)
    assert at[5:-5] == pytest.approx(0.4, abs=0.12), "every unit has its turn"
    assert at.min() > 0.05


def test_codes_spread_over_the_codebook_where_units_are_normalised() -> None:
    """Number of codes in use, by the entropy of the targets; few remain with an offset, which normalisation removes."""
    objective = load_objective("masked_frame", {"codes": 256})

    def used(offset: float) -> float:
        data = Units(values(20_000, 80).x + np.float32(offset))
        share = np.bincount(planned(objective, data).targets[0].values, minlength=256) / 20_000
        return float(np.exp(-(share * np.log(share + 1e-12)).sum()))

    assert used(0.0) > 128
    assert used(5.0) < 32


def test_the_loss_is_a_sum_over_the_loss_mask() -> None:
    prediction = torch.randn(2, 3, 4, generator=torch.Generator().manual_seed(0))
    target, where = torch.tensor([[0, 1, 2], [3, 0, 1]]), torch.tensor([[True, False, True], [False, False, True]])
    loss, count = cross_entropy(prediction, target, where)
    by_hand = sum(-prediction[b, t].log_softmax(-1)[target[b, t]] for b, t in ((0, 0), (0, 2), (1, 2)))
    assert torch.allclose(loss, torch.as_tensor(by_hand))
    assert count == 3


def test_masked_token_predicts_what_it_masks() -> None:
    objective = load_objective("masked_token", {"ratio": 0.5})
    data = units(*range(10, 21))
    plan = planned(objective, data)
    (target,) = plan.targets
    assert target.loss_mask is not None
    assert plan.masked is not None
    assert target.loss_mask.sum() == 5
    assert np.array_equal(target.loss_mask, plan.masked)
    assert np.array_equal(target.values, np.arange(10, 20))
    assert not np.array_equal(planned(objective, data, 1).masked, plan.masked)


def test_masked_token_as_bert_shows_some_at_random_and_some_as_they_are() -> None:
    objective = load_objective("masked_token", {"ratio": 0.15, "random": 0.1, "same": 0.1})
    plan = planned(objective, units(*[7] * 20_001))
    (target,) = plan.targets
    assert target.loss_mask is not None
    assert plan.masked is not None
    assert target.loss_mask.sum() == 3000
    assert (target.values == 7).all()
    assert plan.masked.sum() == pytest.approx(2400, abs=100)
    changed = plan.units.x != 7
    assert changed.sum() == pytest.approx(300, abs=60)
    assert not (changed & ~target.loss_mask).any()


def undone(x: np.ndarray) -> list[int]:
    """Restore the text from a rearranged one."""
    prefix, suffix, middle = (int(np.flatnonzero(x == CLASSES + part)[0]) for part in range(3))
    if suffix == prefix + 1:  # SPM: prefix and middle follow each other
        return [*x[:prefix], *x[middle + 1 :], *x[suffix + 1 : middle]]
    return [*x[:prefix], *x[prefix + 1 : suffix], *x[middle + 1 :], *x[suffix + 1 : middle]]


def test_fill_in_middle_can_be_undone_and_takes_both_orders() -> None:
    objective = load_objective("fill_in_middle", {"rate": 1.0})
    data, orders = units(0, *range(10, 40)), set()
    for seed in range(30):
        plan = planned(objective, data, seed)
        whole = np.array([*plan.units.x, plan.targets[0].values[-1]])
        assert undone(whole) == data.x.tolist()
        assert whole[0] == 0
        assert plan.targets[0].loss_mask is None, "every token is predicted"
        orders.add(bool(np.flatnonzero(whole == CLASSES + 1)[0] == np.flatnonzero(whole == CLASSES)[0] + 1))
    assert orders == {True, False}
    rare = load_objective("fill_in_middle", {"rate": 0.5})
    touched = [bool((planned(rare, data, seed).units.x >= CLASSES).any()) for seed in range(200)]
    assert 70 < sum(touched) < 130


def test_fill_in_middle_stays_inside_a_document() -> None:
    objective = load_objective("fill_in_middle", {"rate": 1.0})
    data = units(0, 1, 2, 0, *range(10, 20), 0, 5, opener=0)
    for seed in range(10):
        plan = planned(objective, data, seed)
        x = np.array([*plan.units.x, plan.targets[0].values[-1]])
        assert x[:4].tolist() == [0, 1, 2, 0]
        assert x[-2:].tolist() == [0, 5]
        assert sorted(x[4:-2]) == [*range(10, 20), *range(CLASSES, CLASSES + 3)]
        assert len(set(plan.units.document[3:17].tolist())) == 1


def test_span_corruption_by_law() -> None:
    """Sentinels are in order, and each target fills its gap, so that the text can be restored."""
    objective: Any = load_objective("span_corruption", {"ratio": 0.3, "span": 3.0})
    text = np.arange(200, 240) - 190  # 40 distinct ids below CLASSES
    for seed in range(20):
        plan = planned(objective, units(*text, 99), seed)
        (target,) = plan.targets
        assert target.loss_mask is not None
        x = np.array([*plan.units.x, target.values[-1]])
        asked = target.loss_mask.sum()
        shown, answer = x[:-asked], x[-asked:]
        missing, spans = objective.spans(40)
        assert (missing, spans, asked) == (12, 4, 12 + 4 + 1)
        assert [i for i in shown if i >= CLASSES] == list(range(CLASSES, CLASSES + spans))
        assert [i for i in answer if i >= CLASSES] == list(range(CLASSES, CLASSES + spans + 1))
        gaps = np.split(answer, np.flatnonzero(answer >= CLASSES))[1:]
        whole = [i for unit in shown for i in (gaps[unit - CLASSES][1:] if unit >= CLASSES else [unit])]
        assert whole == text.tolist()


@pytest.mark.parametrize("context", [16, 64, 513])
def test_plans_fit_the_context(context: int) -> None:
    for kind in TOKEN_OBJECTIVES:
        objective = load_objective(kind, {"rate": 1.0} if kind == "fill_in_middle" else {})
        read = objective.reads(context)
        plan = planned(objective, units(*(np.arange(read + 1) % CLASSES)))
        assert len(plan.units) <= context, kind
        assert len(plan.units) > context - 4, f"{kind} uses the room there is"


@pytest.mark.parametrize("name", SPECS)
def test_a_separable_loss_is_the_sum_of_its_parts(name: str) -> None:
    """And a loss that is not separable is not."""
    objective, batch = SPECS[name].objective.build(), Batch.load(micro_batch(SPECS[name], 1), torch.device("cpu"))
    torch.manual_seed(0)
    for head, (target, loss_mask) in batch.targets.items():
        outputs = make_model(SPECS[name]).heads[head]
        width = (outputs[-1] if isinstance(outputs, tuple) else outputs) or 8
        if objective.couples:
            loss_mask = loss_mask[:, :1]
        prediction = torch.randn(*loss_mask.shape, width)
        target = prediction if objective.couples else torch.randn_like(prediction) if target is None else target
        given = prediction, target, loss_mask
        whole, count = objective.loss(*given)
        together = 2 if objective.couples else 1
        rows = [[one[row : row + together] for one in given] for row in range(0, len(loss_mask), together)]
        parts = [objective.loss(*(one[:, at : at + 1] for one in row)) for row in rows for at in range(loss_mask.shape[1])]
        alike = torch.isclose(torch.stack([loss for loss, _ in parts]).sum(), whole, rtol=1e-5)
        assert bool(alike) == objective.separable
        assert sum(int(number) for _, number in parts) == count or not objective.separable


def each(group: Group, skew: int | None) -> dict[str, str]:
    """Results of three steps of each objective, on one worker."""
    return {name: str(train_steps(group, spec, 3, skew)) for name, spec in SPECS.items()}


@pytest.fixture(scope="module")
def several() -> list[dict[str, str]]:
    """The same results from each of three workers; three processes start once for all objectives."""
    return run_group(3, each, 1)


@pytest.mark.parametrize("name", SPECS)
def test_the_same_bits_for_one_and_three_workers(name: str, several: list[dict[str, str]]) -> None:
    alone = str(train_steps(Group(), SPECS[name], 3, None))
    assert {hashes[name] for hashes in several} == {alone}


def test_losses_are_per_token_for_tokens_alone() -> None:
    """Objectives of others may leave the unit out; these name it."""
    for kind, spec in SPECS.items():
        unit = spec.objective.build().loss_unit
        assert unit != Objective.loss_unit
        assert (unit == "nats per token") == (kind in TOKEN_OBJECTIVES), kind


def test_a_loss_from_elsewhere_is_not_separable_until_it_says_so() -> None:
    class Elsewhere:
        def loss(self, answer: Any, target: Any, mask: Any) -> Any:
            return answer.sum() ** 2, mask.sum()

    class Own(NextToken):
        def loss(self, answer: Any, target: Any, mask: Any) -> Any:
            return super().loss(answer, target, mask)

    class Mixed(Elsewhere, NextToken):  # type: ignore[misc]
        pass

    class Inherits(NextToken):
        pass

    assert (Own.separable, Mixed.separable, Inherits.separable) == (False, False, True)
