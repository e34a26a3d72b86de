"""An evaluation's data are prefetched: once, by one worker, and exactly as the evaluation requests them."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import pytest

from foundray.data.stream import validation
from foundray.spec import Spec
from foundray.testing.specs import make_spec
from foundray.training.collectives.group import Group
from foundray.training.elastic import evaluations as evaluating
from foundray.training.elastic.evaluations import PREFETCH_SECONDS, Evaluations
from foundray.training.step.outcome import Evaluation


class Feeder:
    """A feeder that records the streams that it is asked to open."""

    def __init__(self) -> None:
        self.opened: list[tuple[Any, ...]] = []
        self.open = SimpleNamespace(remote=lambda *arguments: self.opened.append(arguments))


def evaluations(feeder: Feeder, rank: int, monkeypatch: pytest.MonkeyPatch, **train: int) -> Evaluations:
    monkeypatch.setattr(validation, "validation_plan", lambda plan, coupled: SimpleNamespace(micro_batch_size=8))
    trainer = SimpleNamespace(model=None, group=Group(), objective=SimpleNamespace(rebuilds=False))
    monkeypatch.setattr(evaluating, "health", lambda *parts: [])
    monkeypatch.setattr(evaluating, "Activations", lambda model: SimpleNamespace(found=lambda group: {}))
    work = SimpleNamespace(feeder=feeder, plan=None, validation_sizes=(100,), prompts=(), sets=())
    found = Evaluations(
        cast(Any, work), make_spec(**{f"train__{name}": value for name, value in train.items()}), cast(Any, trainer)
    )
    found.begin(cast(Any, SimpleNamespace(rank=rank, generation=7, evaluated=0)))
    return found


def test_the_time_left_decides_when_it_is_prefetched(monkeypatch: pytest.MonkeyPatch) -> None:
    feeder = Feeder()
    subject = evaluations(feeder, 0, monkeypatch, evaluate_every=100, steps=1000)
    for done in range(1, 101):
        subject.prefetch(done, 1.0)
        assert len(feeder.opened) == (100 - done < PREFETCH_SECONDS), done
    subject.prefetch(100, 1.0)
    [asked] = feeder.opened
    assert asked == subject._stream(100, subject._part(100)) and asked[:2] == (7, "validation-100")


def test_the_last_one_is_at_the_end_of_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    feeder = Feeder()
    evaluations(feeder, 0, monkeypatch, evaluate_every=100, steps=12).prefetch(1, 0.01)
    assert [asked[1] for asked in feeder.opened] == ["validation-12"]


def test_the_last_one_is_also_made_on_the_part_that_the_others_used(monkeypatch: pytest.MonkeyPatch) -> None:
    streams: list[str] = []
    monkeypatch.setattr(validation, "replace", lambda plan, **changes: plan)

    class Source:
        """Gives the name of its stream in place of micro-batches."""

        def __init__(self, feeder: Feeder, generation: int, name: str, *rest: object):
            self.name = name

        def step(self, step: int) -> str:
            return self.name

        def close(self) -> None:
            pass

    def evaluated(trainer: object, name: str, by_source: object, *watching: object, **looks: object) -> Evaluation:
        streams.append(name)
        return Evaluation(2.0 if name == "validation-12" else 3.0, 1, 0, 0.0, 0.0)

    monkeypatch.setattr(evaluating, "MicroBatchSource", Source)
    monkeypatch.setattr(evaluating, "evaluate", evaluated)
    subject = evaluations(Feeder(), 0, monkeypatch, evaluate_every=4, steps=12)

    def never(loss: float) -> bool:
        return False

    assert "compared_loss" not in subject.evaluate(12, never), "all use the same part"
    evaluate = {"evaluate": {"sets": {"validation": {"samples": 8}}, "at_end": "whole"}}
    subject.spec = Spec.model_validate({**subject.spec.model_dump(), **evaluate})
    assert "compared_loss" not in subject.evaluate(8, never)
    assert (subject.evaluate(12, never)["val_loss"], subject.evaluate(12, never)["compared_loss"]) == (2.0, 3.0)
    assert streams[-2:] == ["validation-12", "compared-12"]


def test_one_worker_asks_for_all(monkeypatch: pytest.MonkeyPatch) -> None:
    feeder = Feeder()
    evaluations(feeder, 1, monkeypatch, evaluate_every=100, steps=12).prefetch(1, 0.01)
    assert not feeder.opened


def test_a_new_group_asks_again(monkeypatch: pytest.MonkeyPatch) -> None:
    feeder = Feeder()
    subject = evaluations(feeder, 0, monkeypatch, evaluate_every=100, steps=12)
    subject.prefetch(1, 0.01)
    subject.begin(cast(Any, SimpleNamespace(rank=0, generation=8, evaluated=0)))
    subject.prefetch(1, 0.01)
    assert [asked[0] for asked in feeder.opened] == [7, 8]


def test_what_is_evaluated_already_is_not_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """A group that begins at an earlier step does not request it: nothing would close that stream."""
    feeder = Feeder()
    subject = evaluations(feeder, 0, monkeypatch, evaluate_every=6, steps=12)
    subject.begin(cast(Any, SimpleNamespace(rank=0, generation=8, evaluated=6)))
    subject.prefetch(4, 0.01)
    assert not feeder.opened
    subject.prefetch(7, 0.01)
    assert [asked[1] for asked in feeder.opened] == ["validation-12"]
