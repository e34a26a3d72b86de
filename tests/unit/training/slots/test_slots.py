"""Places: Ray Train is asked again when it gives up, and nodes that were told to go have no room for any."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import pytest
import ray
from ray.exceptions import ActorUnschedulableError
from ray.train import ScalingConfig
from ray.train.v2._internal.execution.scaling_policy import NoopDecision, ResizeDecision
from tests.unit.training.step.test_exact_step import make_spec

from foundray.errors import RunFailed
from foundray.runs.run import event
from foundray.training.elastic.coordinator import Coordinator
from foundray.training.elastic.rendezvous import Rendezvous
from foundray.training.elastic.worker_pool import KnownWorker, WorkerPool
from foundray.training.slots import scaling
from foundray.training.slots import slots as places
from foundray.training.slots.board import Slot
from foundray.training.slots.scaling import StayingNodes
from foundray.training.slots.slots import ATTEMPTS, Asked, Slots


class Trainer:
    """Ray Train as it is seen from outside: calls that end when they are told to."""

    def __init__(self, patch: pytest.MonkeyPatch):
        self.calls: list[dict[str, Any]] = []
        self.now = 0.0
        patch.setattr(ray, "wait", lambda calls, timeout: ([c for c in calls if "ended" in c], []))
        patch.setattr(ray, "get", self._get)
        patch.setattr(ray, "kill", lambda keeper: None)
        patch.setattr(places.time, "monotonic", lambda: self.now)

    def begin(self, pool: str) -> tuple[str, dict[str, Any]]:
        self.calls.append({})
        return "keeper", self.calls[-1]

    def end(self) -> None:
        self.calls[-1]["ended"] = ActorUnschedulableError("the node is draining")

    def _get(self, call: dict[str, Any]) -> Any:
        raise call["ended"]


def test_what_ray_train_gives_up_is_begun_again(monkeypatch: pytest.MonkeyPatch) -> None:
    trainer = Trainer(monkeypatch)
    asked = Asked("pool", trainer.begin)
    assert asked.tend(held=True) == ""
    trainer.end()
    assert "draining" in asked.tend(held=True)
    assert asked.tend(held=False) == "" and len(trainer.calls) == 1, "not at once"
    trainer.now += 1.1
    assert asked.tend(held=False) == "" and len(trainer.calls) == 2
    asked.tend(held=True)
    assert asked.failures == 0


def test_a_trainer_that_ends_again_and_again_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    trainer = Trainer(monkeypatch)
    asked = Asked("pool", trainer.begin)
    pauses = []
    while asked.failures < ATTEMPTS:
        trainer.end()
        assert asked.tend(held=False)
        pauses.append(asked.again - trainer.now)
        trainer.now = asked.again
        asked.tend(held=False)
    assert pauses == [1, 2, 4, 8]
    assert len(trainer.calls) == ATTEMPTS + 1


def pools(*made: Asked) -> Slots:
    subject = Slots.__new__(Slots)  # but for the keepers, which are actors
    subject.pools = list(made)
    return subject


def test_ray_train_begins_once_the_first_group_computes_or_after_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where nobody else can take the places."""
    trainer = Trainer(monkeypatch)
    subject = pools(Asked("pool", trainer.begin, places.LATER_SECONDS))
    subject.tend([], computing=False)
    assert not trainer.calls
    subject.tend([], computing=True)
    assert len(trainer.calls) == 1
    trainer.end()
    subject.tend([], computing=True)
    subject.tend([], computing=True)
    assert len(trainer.calls) == 1, "what it gives up is begun again after a pause, as ever"
    late = pools(Asked("pool", trainer.begin, trainer.now + places.LATER_SECONDS))
    trainer.now += places.LATER_SECONDS
    late.tend([], computing=False)
    assert len(trainer.calls) == 2


def test_the_run_gives_up_where_every_pool_is_asked_for_in_vain_and_nobody_computes(monkeypatch: pytest.MonkeyPatch) -> None:
    trainer = Trainer(monkeypatch)
    first, second = Asked("first", trainer.begin), Asked("second", trainer.begin)
    subject = pools(first, second)

    def fail(computing: bool, *failing: Asked) -> None:
        for _ in range(ATTEMPTS):
            for asked in failing:
                asked.call["ended"] = ActorUnschedulableError(f"no place for {asked.pool}")
            assert len(subject.tend([], computing)) == len(failing)
            trainer.now += places.MOST_PAUSE_SECONDS
            subject.tend([], computing)

    fail(False, first)
    assert subject.problem() is None, "the other pool's trainer may find places yet"
    fail(True, first, second)
    assert subject.problem() is None, "a group computed meanwhile"
    assert first.again - trainer.now <= 0 and first.failures == 2 * ATTEMPTS, "but it is not asked more often for that"
    fail(False, first, second)
    problem = str(subject.problem())
    assert "no place for first" in problem and "no place for second" in problem


class OneTurn(Coordinator):
    """It goes once around its loop, with a crew of its own, while Ray Train fails for every pool."""

    def __init__(self, worker_pool: WorkerPool):
        self.worker_pool = worker_pool
        self.rendezvous = cast(
            Rendezvous, SimpleNamespace(group=[], statuses=list, prefetch=lambda: None, all_are=lambda _: False)
        )
        self.holder = cast(Any, SimpleNamespace(taken=False))
        self.ray_train = cast(Slots, SimpleNamespace(problem=lambda: "no place"))
        self.due = {"places": float("inf")}
        self.turns = 0

    def _finished(self) -> bool:
        self.turns += 1
        if self.turns > 1:
            raise StopIteration
        return False

    def _stopped(self) -> bool:
        return False

    def _read_board(self, now: bool = False) -> None:
        pass

    def _form_group_if_due(self) -> None:
        pass


@pytest.mark.parametrize(
    ("placed", "draining", "expected"), [(1.0, False, StopIteration), (1.0, True, RunFailed), (None, False, RunFailed)]
)
def test_a_run_that_has_a_member_with_a_place_does_not_give_up_for_want_of_places(
    placed: float | None, draining: bool, expected: type[Exception]
) -> None:
    worker_pool = WorkerPool(cast(Any, None), make_spec(), print)
    worker_pool.listen = lambda _: None  # type: ignore[method-assign]
    worker_pool.members[1] = KnownWorker(None, Slot("a", (), ""), 1, None, "a", placed=placed)  # it warms up
    worker_pool.draining = {"a"} if draining else set()
    with pytest.raises(expected):
        OneTurn(worker_pool)._conduct()


def test_what_a_keeper_that_died_asked_for_is_withdrawn_before_the_next_asks(monkeypatch: pytest.MonkeyPatch) -> None:
    trainer, withdrawn = Trainer(monkeypatch), list[tuple[list[str], int]]()
    monkeypatch.setattr(places, "cancel_requests", lambda names: withdrawn.append((names, len(trainer.calls))))
    subject = pools(asked := Asked("pool", trainer.begin))
    subject.take_note([{"step": 1}, event("places", pool="other", request="train-1")])
    subject.take_note([event("places", pool="pool", request="train-2")])
    for _ in range(2):
        trainer.end()
        subject.tend([], False)
        trainer.now = asked.again
        subject.tend([], False)
    assert withdrawn == [(["train-2"], 1)], "before the second call, and once"


def policy(monkeypatch: pytest.MonkeyPatch, going: set[str], nodes: str, most: int = 4) -> StayingNodes:
    """On nodes with room for a worker each, of which some go."""
    monkeypatch.setattr(scaling, "draining_nodes", lambda: going)
    made = StayingNodes(ScalingConfig(num_workers=(1, most), elastic_resize_monitor_interval_s=5.0))
    monkeypatch.setattr(made, "_maybe_send_resource_request", lambda: None)
    monkeypatch.setattr(made, "_get_reserved_resources", lambda: {node: {"CPU": 1.0} for node in nodes})
    return made


def group(nodes: str) -> Any:
    workers = [SimpleNamespace(metadata=SimpleNamespace(node_id=node)) for node in nodes]
    return SimpleNamespace(start_time=-100.0, workers=workers, num_workers=len(workers))


@pytest.mark.parametrize(
    ("going", "nodes", "workers", "decided"),
    [
        ("", "ab", "ab", None),
        ("", "abc", "ab", 3),
        ("b", "ab", "ab", 1),  # the stock policy would keep two
        ("b", "abc", "ab", 2),  # a and c: the stock policy would ask for three, of which one cannot be had
        ("b", "abcd", "ab", 3),
        ("c", "abc", "ab", None),  # what goes is not used
        ("ab", "ab", "ab", None),  # fewer than the fewest: it goes on as long as it can
    ],
)
def test_places_are_held_on_nodes_that_stay(
    going: str, nodes: str, workers: str, decided: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    subject = policy(monkeypatch, set(going), nodes)
    decision = subject.make_decision_for_running_worker_group(group(workers), None)
    assert (decision.num_workers if isinstance(decision, ResizeDecision) else None) == decided
    again = subject.make_decision_for_running_worker_group(group(workers), None)
    assert isinstance(again, NoopDecision), "it was looked at a moment ago"


def test_what_is_reserved_on_nodes_that_go_is_asked_for_elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    subject = policy(monkeypatch, {"b"}, "ab", most=2)
    assert subject._get_num_workers_for_resource_request() == 2
    decision = subject.make_decision_for_non_running_worker_group()
    assert isinstance(decision, ResizeDecision) and decision.num_workers == 1
    assert subject._get_num_workers_for_resource_request() == 3
