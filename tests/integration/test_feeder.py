"""The feeder on real Ray Data: a step longer than its buffer, workers of unequal speed, groups that no longer exist."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import ray

import foundray
from foundray.data.stream.feeder import start_feeder
from foundray.data.stream.leases import MicroBatchSource
from foundray.data.stream.plan import StreamPlan, plan_for, read_micro_batches
from foundray.data.stream.stream import BUFFERED_PARCELS
from foundray.spec.loading import load_spec
from foundray.testing.specs import small_spec, write_spec
from foundray.testing.waiting import wait_until

PER_STEP = BUFFERED_PARCELS + 4
SAMPLES = 2500
"""With this many samples of 33 tokens, a micro-batch fills a parcel."""


pytestmark = pytest.mark.usefixtures("own_ray")


@pytest.fixture(scope="module")
def plan(prose: Path, tmp_path_factory: pytest.TempPathFactory) -> StreamPlan:
    folder = tmp_path_factory.mktemp("feeder")
    spec = write_spec(folder, small_spec(prose, folder / "runs"))
    plan = replace(plan_for(foundray.prepare(spec), load_spec(spec)), micro_batch_size=SAMPLES)
    assert plan.per_parcel == 1
    return plan


def begun(feeder, plan: StreamPlan, workers: int, steps: int) -> list[MicroBatchSource]:
    generation = ray.get(feeder.begin.remote(workers))
    end = steps * PER_STEP
    return [MicroBatchSource(feeder, generation, "train", plan, PER_STEP, 0, end, rank) for rank in range(workers)]


def test_a_step_longer_than_the_buffer(plan: StreamPlan) -> None:
    (source,) = begun(start_feeder(), plan, workers=1, steps=2)
    for step in range(2):
        seen = dict(source.step(step))
        assert list(seen) == list(range(step * PER_STEP, (step + 1) * PER_STEP))
        for position, payload in seen.items():
            assert payload == next(read_micro_batches(plan, position, 1))


def test_two_workers_share_a_step_and_each_micro_batch_is_given_once(plan: StreamPlan) -> None:
    fast, slow = begun(start_feeder(), plan, workers=2, steps=1)
    lazily = slow.step(0)
    first = next(lazily)[0]
    taken = [position for position, _ in fast.step(0)]
    rest = [position for position, _ in lazily]
    assert sorted([first, *rest, *taken]) == list(range(PER_STEP))
    assert len(taken) > len(rest) + 1


def test_a_group_that_was_replaced_gets_nothing(plan: StreamPlan) -> None:
    feeder = start_feeder()
    (old,) = begun(feeder, plan, workers=1, steps=1)
    begun(feeder, plan, workers=1, steps=1)
    with pytest.raises(ray.exceptions.RayError, match="has been replaced"):
        list(old.step(0))


def test_a_new_group_continues_with_buffered_parcels_and_repeats_what_it_must(plan: StreamPlan) -> None:
    feeder = start_feeder()
    (old,) = begun(feeder, plan, workers=1, steps=3)
    seen = {position: payload for step in range(2) for position, payload in old.step(step)}
    generation = ray.get(feeder.begin.remote(1))
    again = MicroBatchSource(feeder, generation, "train", plan, PER_STEP, 1, 3 * PER_STEP, 0)
    repeated = dict(again.step(1))
    assert repeated == {position: seen[position] for position in range(PER_STEP, 2 * PER_STEP)}
    assert again.take_waited() < 1.0, "no pipeline had to be started for these"
    assert list(dict(again.step(2))) == list(range(2 * PER_STEP, 3 * PER_STEP)), "and it reads on from there"


def test_prefetched_data_is_there_at_once_and_other_data_is_read_again(plan: StreamPlan) -> None:
    feeder = start_feeder()
    expected = dict(zip(range(PER_STEP), read_micro_batches(plan, 0, PER_STEP), strict=True))
    for prefetched in (0, 1):
        feeder.prefetch.remote(plan, PER_STEP, prefetched, 2 * PER_STEP)
        ready = wait_until(lambda: ray.get(feeder.stats.remote())["parcels_ready"], 300, "a parcel")
        stream = ray.get(feeder.begin.remote(1)), "train", plan, PER_STEP, 0, 2 * PER_STEP
        ray.get(feeder.open.remote(*stream))
        if prefetched == 0:
            assert ray.get(feeder.stats.remote())["parcels_ready"] >= ready
        source = MicroBatchSource(feeder, *stream)  # which leases at once
        assert dict(source.step(0)) == expected
