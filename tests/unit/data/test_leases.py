"""Division of a step by speed, in simulated time: the feeder's rules, without Ray."""

from __future__ import annotations

import asyncio
import heapq
import threading
from collections.abc import Iterator, Sequence
from itertools import product
from typing import cast

import pytest

from foundray.data.stream.buffer import Buffer
from foundray.data.stream.division import AHEAD_SECONDS, Division
from foundray.data.stream.feeder import _Feeder, contiguous
from foundray.data.stream.leases import SMOOTHING, TRAINING, Lease
from foundray.data.stream.plan import StreamPlan
from foundray.data.stream.shares import duration, shares
from foundray.errors import BadData

PER_STEP = 64


def division(workers: int, per_step: int = PER_STEP, steps: int = 1) -> Division:
    """The division of steps whose data are all there."""
    return Division(per_step, 0, per_step * steps, workers, Buffer(0, [(0, per_step * steps, None)]))


def take(data: Division, step: int, rank: int, pace: Sequence[float]) -> Lease | None:
    """A lease for the worker, after all have been measured."""
    for other, seconds in enumerate(pace):
        data.paces.note(other, seconds)
    return data.take(step, rank)


def simulate(seconds: list[float], estimated: list[float], per_step: int = PER_STEP) -> tuple[float, list[int]]:
    """Time of a step, and micro-batches per worker, if one takes `seconds` and was estimated at `estimated`."""
    data, pace, counts = division(len(seconds), per_step), list(estimated), [0] * len(seconds)
    events, end, seen = [(0.0, rank) for rank in range(len(seconds))], 0.0, []
    while events:
        now, rank = heapq.heappop(events)
        lease = take(data, 0, rank, pace)
        assert isinstance(lease, Lease)
        if not lease.micro_batches:
            continue
        seen += lease.micro_batches
        counts[rank] += len(lease.micro_batches)
        for _ in lease.micro_batches:
            pace[rank] = (1 - SMOOTHING) * pace[rank] + SMOOTHING * seconds[rank]
        end = max(end, now + len(lease.micro_batches) * seconds[rank])
        heapq.heappush(events, (now + len(lease.micro_batches) * seconds[rank], rank))
    assert sorted(seen) == list(range(per_step))
    return end, counts


@pytest.mark.parametrize("per_step", [24, 64, 128])
@pytest.mark.parametrize("seconds", [[1, 1, 3], [1, 1, 1, 1], [1, 2, 4], [1, 10]])
def test_shares_follow_speed_to_within_a_tenth_of_the_ideal(seconds: list[float], per_step: int) -> None:
    ideal = per_step / sum(1 / s for s in seconds)
    duration_s, counts = simulate(seconds, seconds, per_step)
    assert duration_s <= max(ideal / 0.9, ideal + min(seconds))
    assert counts == sorted(counts, reverse=True)


def test_a_change_of_speed_is_made_up_for() -> None:
    """A worker that turns out three times slower than estimated delays the step less than equal shares would."""
    duration_s, _ = simulate([1, 1, 3], [1, 1, 1])
    assert duration_s < 0.8 * (PER_STEP / 3 * 3)
    assert simulate([1, 1, 1], [1, 1, 3])[0] < 1.15 * PER_STEP / 3


@pytest.mark.parametrize("pace", [[0.01], [0.01, 0.01], [0.01, 0.02, 0.04], [0.03, 0.02, 0.02, 0.5]])
@pytest.mark.parametrize("per_step", [1, 2, 3, 10])
def test_several_short_steps_are_assigned_at_once_and_each_micro_batch_to_one_worker(pace: list[float], per_step: int) -> None:
    data, seen, until, calls = division(len(pace), per_step, steps=100), [], [0] * len(pace), 0
    for step in range(100):
        for rank in range(len(pace)):
            while until[rank] <= step:
                lease = take(data, step, rank, pace)
                assert lease is not None
                seen += lease.micro_batches
                until[rank], calls = lease.until, calls + 1
                assert all(step <= position // per_step < max(lease.until, step + 1) for position in lease.micro_batches)
                assert sorted(lease.micro_batches) == lease.micro_batches
    assert sorted(seen) == list(range(100 * per_step))
    seconds = duration(shares(per_step, pace), pace)
    assert seconds > AHEAD_SECONDS / 2 or calls < 100 * len(pace) * 1.5 * max(seconds / AHEAD_SECONDS, 1 / 100)


@pytest.mark.parametrize("pace", [[1.0, 1.0, 3.0], [1.0, 10.0], [2.0, 2.0]])
def test_shares_of_short_steps_finish_as_early_as_possible(pace: list[float]) -> None:
    for micro_batches in (1, 2, 5, 24):
        best = min(
            duration(list(counts), pace)
            for counts in product(range(micro_batches + 1), repeat=len(pace))
            if sum(counts) == micro_batches
        )
        assert duration(shares(micro_batches, pace), pace) == best


def test_a_worker_that_has_slowed_down_is_assigned_less_of_the_next_steps() -> None:
    data = division(2, per_step=4, steps=100)
    before, after = take(data, 0, 0, [0.02, 0.02]), take(data, 0, 1, [0.02, 0.02])
    assert isinstance(before, Lease) and isinstance(after, Lease)
    assert len(before.micro_batches) == len(after.micro_batches)
    slower = take(data, before.until, 0, [0.06, 0.02])
    assert isinstance(slower, Lease)
    assert len(slower.micro_batches) == slower.until - before.until, "one micro-batch of four per step"


def test_the_last_worker_that_was_not_refused_takes_what_is_left() -> None:
    data = division(2, per_step=3)
    data.next = 2
    assert take(data, 0, 0, [9.0, 1.0]) == Lease(until=1)
    assert take(data, 0, 1, [1.0, 9.0]).micro_batches == [2]  # type: ignore[union-attr]


def test_a_worker_that_is_a_step_ahead_waits_for_the_others() -> None:
    data = division(2, per_step=4, steps=2)
    data.next = 3
    assert take(data, 1, 0, [1.0, 1.0]) is None
    assert take(data, 0, 1, [1.0, 1.0]).micro_batches == [3]  # type: ignore[union-attr]
    assert take(data, 1, 0, [1.0, 1.0]).micro_batches == [4]  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("position", "end", "found"),
    [
        (0, 100, []),  # the first parcels are lost
        (10, 100, [10, 20, 30]),
        (25, 100, [20, 30]),
        (40, 100, []),
        (10, 35, [10, 20]),  # the stream ends inside the last
    ],
)
def test_a_new_group_starts_with_the_contiguous_parcels(position: int, end: int, found: list[int]) -> None:
    kept = [(first, 10, None) for first in (10, 20, 30)]
    assert [first for first, _, _ in contiguous(kept, position, end)] == found
    assert [first for first, _, _ in contiguous([kept[0], kept[2]], 10, 100)] == [10]


def test_a_parcel_that_arrives_while_a_lease_is_made_does_not_disturb_it(monkeypatch: pytest.MonkeyPatch) -> None:
    comparing, arrived = threading.Event(), threading.Event()

    class Watched(int):
        """A position that lets the next parcel arrive when a lease compares with it."""

        def __gt__(self, other: int) -> bool:
            comparing.set()
            assert arrived.wait(10)
            return int(self) > other

    def parcels(plan: object, first: int, end: int, may_start: object) -> Iterator[tuple[int, int, None]]:
        yield Watched(0), 2, None
        assert comparing.wait(10)
        yield 2, 2, None
        arrived.set()  # by now the pipeline's thread has posted the second parcel

    monkeypatch.setattr("foundray.data.stream.parcels.parcels", parcels)
    assert asyncio.run(leased(workers=1, per_step=4, steps=1)) == [0, 1, 2, 3]


async def leased(workers: int, per_step: int, steps: int) -> list[int]:
    """Micro-batches that concurrent workers get from a real feeder."""
    feeder = _Feeder()
    generation = await feeder.begin(workers)
    plan = cast("StreamPlan", None)  # the replaced pipeline ignores it
    await feeder.open(generation, TRAINING, plan, per_step, 0, per_step * steps)
    seen: list[int] = []

    async def work(rank: int) -> None:
        until = 0
        for step in range(steps):
            while until < step + 1:
                lease = await feeder.lease(generation, TRAINING, step, rank, 1.0)
                until = lease.until
                seen.extend(lease.micro_batches)
                await asyncio.sleep(0)

    await asyncio.gather(*map(work, range(workers)))
    return seen


def test_the_waiting_worker_raises_the_error_of_the_pipeline(monkeypatch: pytest.MonkeyPatch) -> None:
    def parcels(plan: object, first: int, end: int, may_start: object) -> Iterator[tuple[int, int, None]]:
        yield 0, 4, None
        raise BadData("shard 7 is damaged")

    monkeypatch.setattr("foundray.data.stream.parcels.parcels", parcels)
    with pytest.raises(BadData, match="shard 7"):
        asyncio.run(leased(workers=2, per_step=8, steps=1))
