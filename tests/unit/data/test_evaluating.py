"""How much of the validation split an evaluation uses: it follows from the spec and the data, and never changes the result."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from tests.unit.data.manifests import manifest

from foundray.data.prepare.manifest import Prepared
from foundray.data.stream.manifests import keep
from foundray.data.stream.plan import StreamPlan, plan_for, read_micro_batches
from foundray.data.stream.validation import FEWEST, Part, part_of
from foundray.errors import InputError
from foundray.spec import Spec
from foundray.testing.specs import make_spec
from foundray.wording.sentences import sentence


def plan_over(rows: list[list[int]]) -> StreamPlan:
    planning = json.dumps({"width": 1})
    return StreamPlan("nowhere", keep(manifest(rows)), (1.0,) * len(rows), 0.1, 7, 8, planning)


def part(plan: StreamPlan, last: bool = False, **changes: Any) -> Part:
    return part_of(plan, spec_of(**changes), plan.order().validation_sizes, last)


def spec_of(**changes: Any) -> Spec:
    return make_spec(**{"train__steps": 1000, "train__micro_batches": 4, "train__micro_batch_size": 8, **changes})


def test_auto_is_all_of_a_small_split_and_otherwise_one_percent_of_the_tokens() -> None:
    small, large = plan_over([[10_000]]), plan_over([[600_000], [400_000]])
    assert part(small).samples == part(small).of_samples == 1_000
    few = part(large, train__evaluate_every=100)
    assert (few.samples, few.of_samples) == (FEWEST, 100_000)
    # 10 evaluations in 100,000 steps of 32 samples: 1 % is 3,200 samples each; in a million steps, 32,000.
    assert part(large, train__steps=100_000, train__evaluate_every=10_000).samples == 3_200
    assert part(large, train__steps=1_000_000, train__evaluate_every=100_000).samples == 32_000
    assert part(large, train__steps=1_000_000, train__evaluate_every=1_000_000).samples == 100_000


def test_a_number_is_rounded_up_to_micro_batches_and_the_end_may_use_all() -> None:
    plan = plan_over([[600_000], [400_000]])
    changes = {"evaluate__sets": {"validation": {"samples": 1000}}}
    assert part(plan, **changes).samples == 1024
    assert part(plan, last=True, **changes).samples == 1024
    assert part(plan, last=True, evaluate__at_end="whole", **changes).samples == 100_000
    assert part(plan, evaluate__sets={"validation": {"samples": "whole"}}).samples == 100_000


@pytest.mark.parametrize("chosen", [1, 7, 128, 3124, 3125])
def test_chosen_micro_batches_are_spread_over_the_split_and_none_is_chosen_twice(chosen: int) -> None:
    plan = replace(plan_over([[600_000], [400_000]]), validation=True, micro_batch_size=32, chosen=chosen)
    indices = [plan.split_index(index) for index in range(chosen)]
    assert indices == sorted(set(indices))
    assert indices[-1] < 3125
    assert np.abs(np.array(indices) / 3125 - (np.arange(chosen) + 0.5) / chosen).max() <= 0.5 / chosen + 1 / 3125
    if 1 < chosen < 1000:
        assert indices != [replace(plan, seed=8).split_index(index) for index in range(chosen)]
    assert [plan.split_index(index) for index in range(chosen)] == indices, "the same ones each time"


def test_a_short_last_micro_batch_is_not_chosen_so_the_requested_number_is_reached() -> None:
    plan = plan_over([[1_000_010]])  # 100,001 samples in the split: the last of 3,126 micro-batches holds one
    some = part(plan, evaluate__sets={"validation": {"samples": 100_000}})
    assert (some.micro_batches, some.samples, some.of_samples) == (3125, 100_000, 100_001)
    assert [some.plan.split_index(index) for index in range(3125)] == list(range(3125))
    assert part(plan, evaluate__sets={"validation": {"samples": 100_001}}).samples == 100_001


def test_chosen_micro_batches_equal_those_of_the_whole_split(prepared: tuple[Spec, Prepared]) -> None:
    spec, data = prepared
    plan = replace(plan_for(data, spec), validation=True, holdout=0.7, micro_batch_size=1)
    whole = list(read_micro_batches(plan, 0, plan.order().validation_samples))
    assert len(set(whole)) == len(whole) >= 4
    chosen = replace(plan, chosen=2)
    assert list(read_micro_batches(chosen, 0, 2)) == [whole[chosen.split_index(index)] for index in range(2)]


def test_evaluate_is_not_part_of_a_runs_identity() -> None:
    plain = make_spec()
    other = make_spec(evaluate__sets={"validation": {"samples": 4}}, evaluate__at_end="whole")
    assert plain.fingerprint() == other.fingerprint()
    assert plain.evaluate.sets["validation"].samples == "auto"


@pytest.mark.parametrize(
    ("sets", "message"),
    [
        ({"validaton": {}}, "there is no set 'validaton' .did you mean 'validation'"),
        ({"validation": {"samples": 0}}, "samples"),
        ({"validation": {"samples": "all"}}, "samples"),
    ],
)
def test_an_unknown_set_or_size_is_refused(sets: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        make_spec(evaluate__sets=sets)


def test_an_evaluations_sentence_says_how_many_samples_it_used() -> None:
    event = {"event": "evaluated", "step": 5, "val_loss": 2.5, "samples": 4096, "of_samples": 100_000, "not_finite": 0}
    assert sentence(event) == "step 5: validation loss 2.5000 nats per token, on 4,096 of 100,000 samples"
    assert sentence({**event, "samples": 100_000}) == "step 5: validation loss 2.5000 nats per token"
    assert sentence({**event, "samples": 100_000, "val_loss": float("inf"), "not_finite": 2}).endswith(
        "loss inf nats per token, the loss of 2 micro-batches is not finite"
    )


def test_an_earlier_record_has_a_sentence_too() -> None:
    assert sentence({"event": "evaluated", "step": 5, "val_loss": 2.5}) == "step 5: validation loss 2.5000 nats per token"


def test_the_loss_has_the_unit_of_its_objective() -> None:
    event = {"event": "evaluated", "step": 5, "val_loss": 0.25}
    assert sentence(event, "squared error per value") == "step 5: validation loss 0.2500 squared error per value"
