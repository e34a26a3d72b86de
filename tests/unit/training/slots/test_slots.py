"""Slots: Ray Train is restarted when it ends."""

from __future__ import annotations

from typing import Any

import pytest
import ray
from ray.exceptions import ActorUnschedulableError

from foundray.runs.run import event
from foundray.testing.clock import SimulatedClock
from foundray.training.slots import slots as slots_module
from foundray.training.slots.slots import ATTEMPTS, PoolTrainer, Slots


class Trainer:
    """A stand-in for Ray Train, whose calls end on request."""

    def __init__(self, patch: pytest.MonkeyPatch):
        self.calls: list[dict[str, Any]] = []
        self.clock = SimulatedClock()
        self.clock.install(patch.setattr)
        patch.setattr(ray, "wait", lambda calls, timeout: ([c for c in calls if "ended" in c], []))
        patch.setattr(ray, "get", self._get)
        patch.setattr(ray, "kill", lambda actor: None)

    def begin(self, pool: str) -> tuple[str, dict[str, Any]]:
        self.calls.append({})
        return "keeper", self.calls[-1]

    def end(self) -> None:
        self.calls[-1]["ended"] = ActorUnschedulableError("the node is draining")

    def _get(self, call: dict[str, Any]) -> Any:
        raise call["ended"]


def test_ray_train_is_restarted_when_it_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    trainer = Trainer(monkeypatch)
    pool_trainer = PoolTrainer("pool", trainer.begin)
    assert pool_trainer.poll(held=True) == ""
    trainer.end()
    assert "draining" in pool_trainer.poll(held=True)
    assert pool_trainer.poll(held=False) == "" and len(trainer.calls) == 1, "not at once"
    trainer.clock.advance(1.1)
    assert pool_trainer.poll(held=False) == "" and len(trainer.calls) == 2
    pool_trainer.poll(held=True)
    assert pool_trainer.failures == 0


def test_pauses_grow_while_a_trainer_keeps_ending(monkeypatch: pytest.MonkeyPatch) -> None:
    trainer = Trainer(monkeypatch)
    pool_trainer = PoolTrainer("pool", trainer.begin)
    pauses = []
    while pool_trainer.failures < ATTEMPTS:
        trainer.end()
        assert pool_trainer.poll(held=False)
        pauses.append(pool_trainer.retry_at - trainer.clock.monotonic())
        trainer.clock.advance(pool_trainer.retry_at - trainer.clock.monotonic())
        pool_trainer.poll(held=False)
    assert pauses == [1, 2, 4, 8]
    assert len(trainer.calls) == ATTEMPTS + 1


def test_ray_train_begins_soon_after_the_first_steps_or_after_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    """If nobody else can take the slots."""
    trainer = Trainer(monkeypatch)
    subject = Slots([PoolTrainer("pool", trainer.begin, slots_module.DELAY_SECONDS)])
    subject.poll([], computing=False)
    assert not trainer.calls
    subject.poll([], computing=True)
    assert not trainer.calls, "the first steps have the processors to themselves"
    trainer.clock.advance(slots_module.CALM_SECONDS)
    subject.poll([], computing=True)
    assert len(trainer.calls) == 1
    trainer.end()
    subject.poll([], computing=True)
    subject.poll([], computing=True)
    assert len(trainer.calls) == 1, "it is restarted after a pause, as usual"
    late = Slots([PoolTrainer("pool", trainer.begin, trainer.clock.monotonic() + slots_module.DELAY_SECONDS)])
    trainer.clock.advance(slots_module.DELAY_SECONDS)
    late.poll([], computing=False)
    assert len(trainer.calls) == 2


def test_an_error_while_the_slots_are_freed_is_not_raised(monkeypatch: pytest.MonkeyPatch) -> None:
    """It would replace the run's own message, and keep its last records from being stored."""

    def lost() -> None:
        raise ConnectionError("the head is gone")

    monkeypatch.setattr(slots_module.ray.util, "placement_group_table", lost)
    Slots([], alone=True).close([])


def test_the_run_gives_up_if_every_pool_fails_and_nobody_computes(monkeypatch: pytest.MonkeyPatch) -> None:
    trainer = Trainer(monkeypatch)
    first, second = PoolTrainer("first", trainer.begin), PoolTrainer("second", trainer.begin)
    subject = Slots([first, second])

    def fail(computing: bool, *failing: PoolTrainer) -> None:
        for _ in range(ATTEMPTS):
            for pool_trainer in failing:
                pool_trainer.call["ended"] = ActorUnschedulableError(f"no slot for {pool_trainer.pool}")
            assert len(subject.poll([], computing)) == len(failing)
            trainer.clock.advance(slots_module.MAX_PAUSE_SECONDS)
            subject.poll([], computing)

    fail(False, first)
    assert subject.problem() is None, "the other pool's trainer may still find slots"
    fail(True, first, second)
    assert subject.problem() is None, "a group computed meanwhile"
    assert first.retry_at - trainer.clock.monotonic() <= 0 and first.failures == 2 * ATTEMPTS, (
        "but it is not asked more often because of that"
    )
    fail(False, first, second)
    problem = str(subject.problem())
    assert "no slot for first" in problem and "no slot for second" in problem


def test_the_request_of_a_dead_actor_is_withdrawn_before_the_next_one_is_made(monkeypatch: pytest.MonkeyPatch) -> None:
    trainer, withdrawn = Trainer(monkeypatch), list[tuple[list[str], int]]()
    monkeypatch.setattr(slots_module, "cancel_requests", lambda names: withdrawn.append((names, len(trainer.calls))))
    subject = Slots([pool_trainer := PoolTrainer("pool", trainer.begin)])
    subject.note_requests([{"step": 1}, event("places", pool="other", request="train-1")])
    subject.note_requests([event("places", pool="pool", request="train-2")])
    for _ in range(2):
        trainer.end()
        subject.poll([], False)
        trainer.clock.advance(pool_trainer.retry_at - trainer.clock.monotonic())
        subject.poll([], False)
    assert withdrawn == [(["train-2"], 1)], "before the second call, and once"
