"""A run ends early by its evaluations by step alone."""

from __future__ import annotations

import math

import pytest

from foundray.errors import InputError
from foundray.inspection.auditing.events import judge_events
from foundray.inspection.auditing.groups import groups_of, placed
from foundray.runs.checkpoints import Keep
from foundray.testing.records import event_at, step_records
from foundray.testing.specs import make_spec
from foundray.training.evaluating.stopping import reason, stops_at


def rule(patience: int, min_delta: float = 0.0, every: int = 10, steps: int = 100):  # type: ignore[no-untyped-def]
    early = {"patience": patience, "min_delta": min_delta}
    return make_spec(train__steps=steps, train__evaluate_every=every, train__stop_early=early)


@pytest.mark.parametrize(
    ("losses", "patience", "min_delta", "step"),
    [
        ([3.0, 2.0, 2.1, 2.2], 2, 0.0, 40),
        ([3.0, 2.0, 2.1, 1.9], 2, 0.0, None),
        ([3.0, 2.0, 2.0], 1, 0.0, 30),  # an equal loss is no improvement
        ([3.0, 2.99, 2.97, 2.96, 2.955], 2, 0.02, 50),  # improvements smaller than 0.02 add up
        ([3.0, 2.5, 2.0], 1, 0.4, None),
        ([math.inf, math.inf], 2, 0.0, 20),
        ([math.nan, 2.0, math.nan, math.nan], 2, 0.0, 40),
        ([], 1, 0.0, None),
    ],
)
def test_the_rule(losses: list[float], patience: int, min_delta: float, step: int | None) -> None:
    by_step = dict(zip(range(10, 10 * len(losses) + 1, 10), losses, strict=True))
    assert stops_at(rule(patience, min_delta).train, by_step) == step
    assert stops_at(rule(patience, min_delta).train, dict(reversed(by_step.items()))) == step, "whatever their order"


def test_evaluations_at_other_steps_do_not_count() -> None:
    """An earlier, shorter run has evaluated at its end, too."""
    assert stops_at(rule(2).train, {10: 3.0, 15: 3.5, 20: 3.2, 25: 3.5}) is None
    assert stops_at(make_spec().train, {100: 3.0, 200: 4.0, 300: 5.0}) is None


def test_the_reason_names_the_best() -> None:
    said = reason(rule(2).train, {10: 3.0, 20: 2.5, 30: 2.6, 40: 2.7, 45: 1.0, 50: 1.0}, 40)
    assert said == "train.stop_early: 2 evaluations in a row without improvement; the best, 2.5000, is that of step 20"


def test_what_the_rule_reads_decides_the_result() -> None:
    plain, early = make_spec(), rule(2)
    assert "train.evaluate_every" not in plain.identity() and "train.evaluate_every" in early.identity()
    assert rule(2, every=20).fingerprint() != early.fingerprint() != rule(3).fingerprint()
    half = make_spec(
        train__steps=100, train__evaluate_every=10, train__stop_early={"patience": 2},
        evaluate={"sets": {"validation": {"samples": 64}}},
    )  # fmt: skip
    assert half.fingerprint() != early.fingerprint()
    with pytest.raises(InputError, match=r"evaluate.at_end: with train.stop_early"):
        make_spec(train__stop_early={"patience": 2}, evaluate={"at_end": "whole"})


def test_the_best_checkpoint_is_kept() -> None:
    spec = rule(2)
    assert spec.pins(30) and not spec.pins(35)
    assert 20 in Keep.by(spec, lambda: {10: 3.0, 20: 2.0, 30: 2.5}).of([90, 60, 50, 30, 20, 10])


def test_the_audit_knows_where_it_ends() -> None:
    spec = rule(2, steps=60)
    measured = {"val_tokens": 10, "feature_spread": 0.1, "effective_rank": 3.0, "seconds": 0.5}
    metrics, losses = step_records(1, 40, 1), ((10, 3.0), (20, 2.0), (30, 2.1), (40, 2.1))
    events = [
        event_at(1, "workers_started", step=0, workers=metrics[0]["workers"], device="cpu", state="memory", seconds=0.1),
        *(event_at(1 + s, "evaluated", step=s, val_loss=v, **measured) for s, v in losses),
        event_at(50, "finished", step=40, weights_sha256="ab" * 32, reason="train.stop_early"),
    ]
    lines, _ = placed(metrics, groups_of(events))
    assert judge_events(events, lines, spec) == []
    events[3] = events[3] | {"val_loss": 1.0}
    assert judge_events(events, lines, spec) == ["finished: after step 40, but the run has 60 steps and the step log 40"]
