"""A run's length in steps, tokens or epochs, and a schedule in fractions or steps."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from foundray.errors import InputError
from foundray.spec import Spec
from foundray.spec.length import with_epochs, with_steps
from foundray.spec.loading import load_spec, parse_spec
from foundray.testing.specs import make_spec, small_spec, write_spec

PER_STEP = 5 * 2 * 32
"""Predicted positions per step of the small spec."""


def refusal(**changes: Any) -> str:
    with pytest.raises(InputError) as caught:
        make_spec(**changes)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(("tokens", "steps"), [(12 * PER_STEP, 12), (12 * PER_STEP + 1, 13), (1, 1)])
def test_tokens_are_steps_that_show_at_least_as_many(tokens: int, steps: int) -> None:
    spec = make_spec(train__steps=None, train__tokens=tokens)
    assert (spec.train.steps, spec.train.tokens) == (steps, None)
    assert spec.fingerprint() == make_spec(train__steps=steps).fingerprint(), "it is the same run"
    assert parse_spec(spec.to_yaml(), "again") == spec


@pytest.mark.parametrize(
    ("epochs", "samples", "steps"), [(1, 100, 10), (1, 101, 11), (0.1, 300, 3), (2.5, 40, 10), (0.001, 10, 1)]
)
def test_epochs_are_steps_once_the_data_are_known(epochs: float, samples: int, steps: int) -> None:
    spec = make_spec(train__steps=None, train__epochs=epochs)
    assert (spec.train.steps, spec.train.epochs) == (None, epochs)
    settled = with_epochs(spec, samples)
    assert (settled.train.steps, settled.train.epochs) == (steps, None)
    assert settled.fingerprint() == make_spec(train__steps=steps).fingerprint()
    assert parse_spec(settled.to_yaml(), "again") == settled
    assert with_epochs(settled, 7 * samples) == settled, "a length in steps stays as it is"


def test_a_run_has_one_length() -> None:
    assert "one of steps, tokens and epochs, and steps and tokens are given" in refusal(train__tokens=100)
    assert "one of steps, tokens and epochs, and it is missing" in refusal(train__steps=None)


def test_an_override_of_the_length_replaces_the_files(tmp_path: Path) -> None:
    path = write_spec(tmp_path, small_spec(tmp_path / "text", tmp_path, train__steps=None, train__tokens=20 * PER_STEP))
    assert load_spec(path).train.steps == 20
    assert load_spec(path, {"train.steps": 7}).train.steps == 7
    assert load_spec(path, {"train.epochs": 2}).train.epochs == 2
    with pytest.raises(InputError, match="steps and epochs are given"):
        load_spec(path, {"train.epochs": 2, "train.steps": 7})


def test_an_override_of_the_schedule_replaces_the_files(tmp_path: Path) -> None:
    path = write_spec(tmp_path, small_spec(tmp_path / "text", tmp_path, schedule={"warmup": 0.5, "decay_steps": 3}))
    spec = load_spec(path, {"schedule.warmup_steps": 2, "schedule.decay": 0.5})
    assert (spec.schedule.warmup_of(12), spec.schedule.decay_of(12)) == (2, 6)


def test_warm_up_and_decay_in_steps() -> None:
    spec = make_spec(schedule={"warmup_steps": 3, "decay_steps": 4})
    assert (spec.schedule.warmup, spec.schedule.decay) == (None, None)
    assert [spec.schedule.warmup_of(steps) for steps in (12, 100)] == [3, 3]
    assert [spec.schedule.decay_of(steps) for steps in (12, 100)] == [4, 4]
    assert parse_spec(spec.to_yaml(), "again") == spec
    half = make_spec(schedule={"warmup": 0.5, "decay_steps": 4})
    assert (half.schedule.warmup_of(12), half.schedule.decay_of(12)) == (6, 4)


def test_steps_that_the_schedule_does_not_use_do_not_change_what_a_run_is() -> None:
    fields = make_spec().identity()
    assert "schedule.warmup_steps" not in fields and "schedule.decay_steps" not in fields
    assert "train.tokens" not in fields and "train.epochs" not in fields
    assert make_spec(schedule={"warmup_steps": 3}).fingerprint() != make_spec().fingerprint()


def test_a_schedule_that_does_not_fit_is_refused() -> None:
    assert "both warmup (a fraction of the run) and warmup_steps are given" in refusal(
        schedule={"warmup": 0.1, "warmup_steps": 3}
    )
    assert "both decay (a fraction of the run) and decay_steps are null" in refusal(schedule={"decay": None})
    long = refusal(schedule={"warmup_steps": 9, "decay_steps": 4})
    assert "a warmup of 9 steps and decay of 4 steps are together longer than the run of 12 steps" in long
    assert "a warmup of 13 steps is longer than the run of 12" in refusal(schedule={"kind": "cosine", "warmup_steps": 13})
    with pytest.raises(InputError, match="longer than the run of 3 steps"):
        with_steps(make_spec(schedule={"warmup_steps": 2, "decay_steps": 4}), 3)


def test_a_resolved_spec_says_steps(tmp_path: Path) -> None:
    text = yaml.safe_dump(small_spec(tmp_path / "x", tmp_path, train__steps=None, train__tokens=PER_STEP))
    spec: Spec = parse_spec(text, "spec")
    assert yaml.safe_load(spec.to_yaml())["train"]["steps"] == 1
