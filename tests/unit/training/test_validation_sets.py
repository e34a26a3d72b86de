"""Further validation sets: which specs may have them, with which tokenizer they are cut, and how much of them is used."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from tests.unit.data.manifests import manifest

from foundray.data.stream.manifests import keep
from foundray.data.stream.plan import StreamPlan
from foundray.data.stream.validation import part_of
from foundray.errors import InputError
from foundray.testing.specs import make_spec, spec_in
from foundray.training.validation_sets import WHOLE, check_sets


def test_all_samples_of_a_set_are_for_validation() -> None:
    plan = StreamPlan("nowhere", keep(manifest([[100, 31]])), (1.0,), WHOLE, 7, 8, json.dumps({"width": 1}))
    assert (plan.order().validation_samples, plan.order().train_samples) == (131, 0)
    assert len(plan.order().validation(0, 200).row) == 131


def test_a_set_has_its_own_number_of_samples() -> None:
    plan = StreamPlan("nowhere", keep(manifest([[10_000]])), (1.0,), WHOLE, 7, 8, json.dumps({"width": 1}))
    spec = make_spec(evaluate__sets={"news": {"path": "n", "samples": 64}, "all": {"path": "a", "samples": "whole"}})
    assert part_of(plan, spec, (10_000,), False, "news").samples == 64
    assert part_of(plan, spec, (10_000,), False, "all").samples == 10_000


@pytest.mark.parametrize(
    ("sets", "message"),
    [
        ({"news": {}}, "there is no set 'news'; a set besides validation needs a path"),
        ({"validation": {"path": "x"}}, "validation is the split that data.holdout keeps, and takes `samples` alone"),
        ({"news": {"path": "x", "every": 150}}, "evaluate.sets.news.every: it is a multiple of train.evaluate_every"),
        ({"a/b": {"path": "x"}}, "evaluate.sets.a/b"),
    ],
)
def test_an_impossible_set_is_refused(sets: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError) as refused:
        make_spec(evaluate__sets=sets)
    assert message in str(refused.value)


def test_its_files_must_be_there_and_its_characters_known(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="nothing"):
        check_sets(spec_in(tmp_path, evaluate__sets={"news": {"path": str(tmp_path / "nothing.txt")}}))
    spec = make_spec(data__tokenizer={"kind": "char"}, evaluate__sets={"news": {"path": "x"}})
    with pytest.raises(InputError, match=r"evaluate\.sets\.news: a tokenizer of the kind char knows only the characters"):
        check_sets(spec)


def test_sets_are_no_part_of_a_runs_identity() -> None:
    assert make_spec(evaluate__sets={"news": {"path": "x"}}).fingerprint() == make_spec().fingerprint()
