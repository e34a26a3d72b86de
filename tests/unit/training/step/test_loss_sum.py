"""Losses are summed exactly, whatever their number and size."""

from __future__ import annotations

import math
import random
from fractions import Fraction

import pytest
import torch

from foundray.testing.groups import run_group
from foundray.testing.specs import make_spec
from foundray.testing.trainers import make_trainer, micro_batch
from foundray.training.collectives.group import Group
from foundray.training.evaluating.evaluation import evaluate
from foundray.training.step.loss_sum import UNITS, WORDS, fits, nats, words
from foundray.training.step.outcome import Evaluation


def summed(losses: list[float]) -> list[int]:
    total = torch.zeros(WORDS, dtype=torch.int64)
    for loss in losses:
        total += words(torch.tensor(loss))
    return total.tolist()


def test_the_sum_is_that_of_the_rounded_losses_in_any_order() -> None:
    dice = random.Random(3)
    losses = [float(torch.tensor(dice.uniform(-1, 1) * 10.0 ** dice.uniform(-12, 38))) for _ in range(400)]
    exact = sum(Fraction(round(Fraction(loss) * 2**32), 2**32) for loss in losses)
    assert nats(summed(losses)) == float(exact)
    assert summed(losses) == summed(sorted(losses))


@pytest.mark.parametrize("loss", [0.0, 2.5, 81920.0, 2.1e9, 2.0**-33, 3 * 2.0**-33, -7.25])
def test_one_word_of_64_bits_had_the_same_bits_before_it_wrapped_around(loss: float) -> None:
    before = int((torch.tensor(loss).double() * UNITS).round().to(torch.int64))
    assert nats(summed([loss])) == before / UNITS


def test_an_evaluation_over_3_billion_tokens_does_not_wrap_around() -> None:
    tokens, per = 32 * 1024, 32 * 1024 * 2.5
    count = 3_000_000_000 // tokens
    assert nats((words(torch.tensor(per)) * count).tolist()) / (count * tokens) == 2.5


@pytest.mark.parametrize(("loss", "finite"), [(3.4e38, True), (math.inf, False), (math.nan, False), (-math.inf, False)])
def test_every_finite_loss_fits(loss: float, finite: bool) -> None:
    assert bool(fits(torch.tensor(loss))) == finite
    if finite:
        assert nats(summed([loss, loss, -loss])) == float(torch.tensor(loss))


def evaluated(group: Group, huge: float) -> Evaluation:
    """Evaluate seven micro-batches; one has another loss."""
    spec = make_spec()
    trainer = make_trainer(spec, group)
    loss_of, seen = trainer.loss_of, []

    def poisoned(batch, hidden):  # type: ignore[no-untyped-def]
        loss, count = loss_of(batch, hidden)
        seen.append(batch)
        mine = list(range(group.rank, 7, group.world))[len(seen) - 1]
        return (torch.full_like(loss, huge) if mine == 4 else loss), count

    trainer.loss_of = poisoned  # type: ignore[method-assign]
    return evaluate(trainer, [(i, micro_batch(spec, i)) for i in range(group.rank, 7, group.world)])


def test_one_huge_loss_counts_as_it_is_and_one_that_is_not_finite_is_reported() -> None:
    huge = evaluated(Group(), 1e30)
    assert huge.loss == pytest.approx(1e30 / huge.tokens, rel=1e-6)
    assert huge.not_finite == 0
    lost = evaluated(Group(), math.nan)
    assert (lost.loss, lost.not_finite) == (math.inf, 1)
    assert run_group(3, evaluated, 1e30) == [huge] * 3
