"""Micro-batches with non-finite losses, losses that jump, and machines that compute other bits."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from foundray.errors import InputError
from foundray.testing.groups import run_group
from foundray.testing.specs import make_spec
from foundray.testing.trainers import make_trainer, micro_batch
from foundray.training.checkpoints.checkpoint import weights_sha256
from foundray.training.collectives.group import Group
from foundray.training.step.guards import FEWEST, Corruption, SpikeGuard, odd_ones_out
from foundray.training.step.trainer import Trainer


def steps(group: Group, spec: Any, poisoned: dict[int, float], count: int) -> tuple[str, list[tuple[int, ...]], list[bool]]:
    """Do some steps in which the losses of the micro-batches at the given positions are multiplied."""
    trainer = make_trainer(spec, group)
    loss_of = trainer.loss
    trainer.loss = lambda payload, step, index: _times(  # type: ignore[method-assign]
        loss_of(payload, step, index), poisoned.get(step * spec.train.micro_batches + index, 1.0)
    )
    results = []
    for step in range(count):
        first = step * spec.train.micro_batches
        mine = range(first + group.rank, first + spec.train.micro_batches, group.world)
        results.append(trainer.step(step, [(position, micro_batch(spec, position)) for position in mine]))
    return weights_sha256(trainer.weights()), [r.skipped for r in results], [r.spike for r in results]


def _times(found: tuple[torch.Tensor, ...], factor: float) -> tuple[torch.Tensor, ...]:
    return found[0] * factor, *found[1:]


def test_a_micro_batch_that_is_not_finite_is_left_out_whichever_worker_had_it() -> None:
    spec = make_spec()
    poisoned = {7: float("nan"), 11: float("inf")}
    sha, skipped, _ = steps(Group(), spec, poisoned, 4)
    assert skipped == [(), (2,), (1,), ()]
    assert sha != steps(Group(), spec, {}, 4)[0]
    assert {answer[0] for answer in run_group(3, steps, spec, poisoned, 4)} == {sha}


def test_a_spike_is_flagged_and_its_update_is_left_out_whichever_worker_had_it() -> None:
    spec = make_spec(guard__spike=6, train__steps=100)
    poisoned = {5 * 20 + i: 4.0 for i in range(5)}
    sha, _, spikes = steps(Group(), spec, poisoned, 24)
    assert [step for step, spike in enumerate(spikes) if spike] == [20]
    assert {answer[0] for answer in run_group(2, steps, spec, poisoned, 24)} == {sha}
    assert not any(steps(Group(), make_spec(train__steps=100), poisoned, 24)[2])


def test_the_estimate_is_robust_and_can_be_restored() -> None:
    guard = SpikeGuard(5.0)
    losses = [3.0 + 0.01 * ((7 * i) % 5) for i in range(40)]
    assert not any(judged(guard, step, loss) for step, loss in enumerate(losses, 1))
    assert all(judged(guard, 41, 3.5) for _ in range(100))  # spikes do not teach it that they are normal
    assert not judged(guard, 42, 2.0)
    again = SpikeGuard(5.0)
    again.restore([(step, loss) for step, loss in enumerate(losses, 1)], 30)
    assert [step for step, _ in again.losses] == list(range(1, 31))
    young = SpikeGuard(5.0)
    assert not any(judged(young, step, 10.0**step) for step in range(1, FEWEST))


def judged(guard: SpikeGuard, step: int, loss: float) -> bool:
    if not (spike := guard.is_spike(loss)):
        guard.add(step, loss)
    return spike


@pytest.mark.parametrize(
    ("taker", "first", "again", "odd"),
    [
        (0, 7, [7, 7, 7], []),
        (0, 7, [7], []),
        (0, 7, [8], [0]),
        (1, 9, [7, 7, 7], [1]),
        (0, 7, [7, 7, 8], [2]),
        (0, 7, [7, 8, 8], [0]),
        (0, 7, [7, 8], [0, 1]),
    ],
)
def test_which_workers_are_named(taker: int, first: int, again: list[int], odd: list[int]) -> None:
    assert odd_ones_out(taker, first, again) == odd


def flipping(group: Group, spec: Any, flips: tuple[int, int]) -> list[int] | None:
    """One worker flips a bit of every gradient from a step on. Returns the workers that are named."""
    trainer = make_trainer(spec, group)
    trainer.read = lambda position: micro_batch(spec, position)
    rank, since = flips
    backward = trainer.backward

    def flipped(samples: Any, step: int, index: int) -> Any:
        answer = backward(samples, step, index)
        if group.rank == rank and step >= since:
            trainer.flat.gradient.view(torch.int32)[5] ^= 1
        return answer

    trainer.backward = flipped  # type: ignore[method-assign]
    try:
        for step in range(6):
            first = step * spec.train.micro_batches
            mine = range(first + group.rank, first + spec.train.micro_batches, group.world)
            trainer.step(step, [(position, micro_batch(spec, position)) for position in mine])
    except Corruption as corruption:
        assert trainer.updates == 3  # nothing was made of that step
        return corruption.ranks
    return None


def test_a_machine_that_flips_a_bit_is_named_by_all() -> None:
    spec = make_spec(guard__recheck_every=4)
    assert run_group(3, flipping, spec, (1, 3)) == [[1]] * 3
    assert run_group(3, flipping, spec, (1, 99)) == [None] * 3


def test_a_recheck_leaves_no_trace() -> None:
    trainers: list[Trainer] = []
    for every in (None, 1):
        spec = make_spec(guard__recheck_every=every)
        trainers.append(trainer := make_trainer(spec, Group()))
        trainer.read = lambda position: micro_batch(make_spec(), position)
        for step in range(3):
            trainer.step(step, [(p, micro_batch(spec, p)) for p in range(step * 5, step * 5 + 5)])
    assert torch.equal(trainers[0].flat.buffer, trainers[1].flat.buffer)


def unreadable(group: Group, spec: Any, since: int) -> tuple[list[str], str]:
    """One worker cannot read the rechecked micro-batch. Returns each step's outcome, and the weights' hash."""
    trainer = make_trainer(spec, group)

    def read(position: int) -> bytes:
        if group.rank == 1:
            raise InputError("s3://bucket/shard cannot be read: SlowDown")
        return micro_batch(spec, position)

    trainer.read = read
    said = []
    for step in range(3):
        first = step * spec.train.micro_batches
        mine = range(first + group.rank, first + spec.train.micro_batches, group.world)
        if step == since:
            trainer.read = lambda position: micro_batch(spec, position)
        said.append(trainer.step(step, [(position, micro_batch(spec, position)) for position in mine]).unchecked)
    return said, weights_sha256(trainer.weights())


def test_a_recheck_that_one_worker_cannot_read_is_skipped_by_all_and_reported() -> None:
    spec = make_spec(guard__recheck_every=1)
    sha = steps(Group(), spec, {}, 3)[0]
    problem = "s3://bucket/shard cannot be read: SlowDown"
    assert run_group(3, unreadable, spec, 2) == [([problem, problem, ""], sha)] * 3
