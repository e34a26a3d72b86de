"""The feeder with thousands of workers: few calls, linear work, and no worker that waits for nothing."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any, cast

import pytest

from foundray.data.stream.buffer import Buffer
from foundray.data.stream.division import CALLS_PER_SECOND, Division, leases_in_parts
from foundray.data.stream.feeder import StaleGeneration, _Feeder
from foundray.data.stream.leases import TRAINING, Lease
from foundray.data.stream.plan import StreamPlan
from foundray.data.stream.stream import BUFFERED_PARCELS, RayData, Stream

PER_PARCEL = 4


def stream(workers: int, per_step: int, steps: int, micro_batch_bytes: int = 2**16) -> Stream:
    """A stream without a pipeline: tests append its parcels."""
    plan = cast(StreamPlan, SimpleNamespace(micro_batch_bytes=micro_batch_bytes))
    made = Stream(plan, per_step, 0, per_step * steps, lambda change: change(), RayData(True), [])
    made.division.begin(workers)
    return made


def parcels(stop: int, start: int = 0) -> Iterator[tuple[int, int, Any]]:
    return ((first, min(PER_PARCEL, stop - first), first) for first in range(start, stop, PER_PARCEL))


class Workers:
    """Workers that compute the steps together: each asks for the next step when it begins the last one of its lease."""

    def __init__(self, data: Stream, workers: int, steps: int, seconds: float):
        self.data, self.workers, self.steps, self.seconds = data, workers, steps, seconds
        self.seen: Counter[int] = Counter()
        self.calls = self.most = 0
        """Calls in all, and the most that waited."""

    async def run(self) -> None:
        until = [0] * self.workers
        replies = {rank: self._ask(0, rank) for rank in range(self.workers)}
        for step in range(self.steps):
            for rank in range(self.workers):
                while until[rank] <= step:
                    reply = replies.pop(rank) if rank in replies else self._ask(step, rank)
                    until[rank] = await self._received(reply)
                if until[rank] == step + 1:
                    replies[rank] = self._ask(step + 1, rank)

    async def in_turn(self) -> None:
        """One step whose leases all workers take by turns."""
        left = list(range(self.workers))
        while left:
            left = [rank for rank in left if await self._received(self._ask(0, rank)) == 0]

    def _ask(self, step: int, rank: int) -> Any:
        self.calls += 1
        reply = self.data.lease(step, rank, self.seconds)
        self.most = max(self.most, len(self.data.requests.replies))
        return reply

    async def _received(self, reply: Any) -> int:
        lease = reply if isinstance(reply, Lease) else await asyncio.wait_for(reply, 10)
        self.seen.update(lease.micro_batches)
        held = {first + index for first, count, _ in lease.parcels for index in range(count)}
        assert set(lease.micro_batches) <= held
        return int(lease.until)


def test_no_micro_batch_is_lost_and_calls_stay_few_while_data_arrive_slowly() -> None:
    """2,000 workers at one second per step; a parcel arrives at a time, as there is room."""
    workers, per_step, steps = 2000, 4096, 6
    data = stream(workers, per_step, steps)
    group = Workers(data, workers, steps, seconds=per_step / workers / 2)

    async def run() -> None:
        arriving = parcels(per_step * steps)

        async def pipeline() -> None:
            for parcel in arriving:
                while not data.room.acquire(blocking=False):
                    await asyncio.sleep(0)
                data._append(parcel)
                await asyncio.sleep(0)

        reading = asyncio.create_task(pipeline())
        await asyncio.wait_for(group.run(), 60)
        await reading

    asyncio.run(run())
    assert group.seen == Counter(range(per_step * steps))
    assert group.calls <= workers * (steps + 1)
    assert data.buffer.parcels == [], "all were handed out"


def test_a_large_group_is_dealt_the_steps_of_some_seconds() -> None:
    """If the data are there, calls per second do not grow with the workers."""
    for workers in (500, 2000):
        per_step, steps = 2 * workers, 40
        data = stream(workers, per_step, steps)
        for parcel in parcels(per_step * steps):
            data._append(parcel)
        group = Workers(data, workers, steps, seconds=0.5)
        asyncio.run(group.run())
        assert group.seen == Counter(range(per_step * steps))
        assert group.calls <= steps * 1.0 * CALLS_PER_SECOND * 1.5 + workers


@pytest.mark.parametrize("workers", [2, 64])
def test_a_small_group_with_long_steps_leases_in_parts(workers: int) -> None:
    data = stream(workers, 8 * workers, 1)
    for parcel in parcels(8 * workers):
        data._append(parcel)
    lease = data.lease(0, 0, 0.25)
    assert isinstance(lease, Lease)
    assert (lease.until, len(lease.micro_batches)) == (0, 6), "three quarters of its share"


@pytest.mark.parametrize(("workers", "per_step"), [(8, 4096), (16, 64), (50, 100)])
def test_the_number_of_leases_in_parts_is_estimated(workers: int, per_step: int) -> None:
    data = stream(workers, per_step, 1)
    for parcel in parcels(per_step):
        data._append(parcel)
    group = Workers(data, workers, 1, seconds=1.0)
    asyncio.run(group.in_turn())
    assert group.calls == pytest.approx(leases_in_parts(per_step, workers), rel=0.3)


def test_each_change_tries_those_that_it_answers_and_one_more(monkeypatch: pytest.MonkeyPatch) -> None:
    """A parcel or a lease wakes no worker that has to wait on."""
    workers, per_step = 512, 1024
    data, tried = stream(workers, per_step, 2), Counter[str]()
    for name in ("take", "_begin_step"):
        method = getattr(Division, name)
        monkeypatch.setattr(Division, name, lambda *a, method=method, name=name: (tried.update([name]), method(*a))[1])

    async def run() -> int:
        replies = [data.lease(0, rank, 0.5) for rank in range(workers)]
        assert all(isinstance(reply, asyncio.Future) for reply in replies), "there are no data yet"
        arriving = list(parcels(per_step))
        for parcel in arriving:
            data._append(parcel)
        leases = [reply.result() for reply in replies if isinstance(reply, asyncio.Future)]
        assert sorted(p for lease in leases for p in lease.micro_batches) == list(range(per_step))
        return len(arriving)

    changes = asyncio.run(run()) + workers
    assert tried["_begin_step"] == 1, "all paces are looked at once per step"
    assert tried["take"] <= 2 * (changes + workers)


def test_a_share_larger_than_the_buffer_arrives() -> None:
    """What is dealt takes no room."""
    workers, per_step = 100, 100 * (BUFFERED_PARCELS + 2) * PER_PARCEL
    data = stream(workers, per_step, 1)
    data.division.paces.measured = dict.fromkeys(range(workers), 1e-3)

    async def run() -> None:
        replies = [data.lease(0, rank, 1e-3) for rank in range(workers)]
        for parcel in parcels(per_step):
            assert data.room.acquire(blocking=False), "the pipeline may read on"
            data._append(parcel)
        assert all(reply.done() for reply in replies if isinstance(reply, asyncio.Future))

    asyncio.run(run())


@pytest.mark.parametrize(("micro_batch_bytes", "most"), [(2**16, 8000), (2**20, 500)])
def test_what_is_read_ahead_is_bounded(micro_batch_bytes: int, most: int) -> None:
    workers, per_step = 1000, 4000
    data = stream(workers, per_step, 20, micro_batch_bytes)
    assert isinstance(data.division.take(0, 0), Lease | None)
    data.division.paces.note(0, 0.1)
    data.division._begin_step(1)
    data._append((0, PER_PARCEL, None))
    assert BUFFERED_PARCELS < data.rooms <= most


def test_parcels_are_kept_in_order_for_the_next_group() -> None:
    """Whatever order they were handed out in."""
    buffer = Buffer(2, parcels(20))
    assert [first for first, *_ in buffer.hand_out(9, 14)] == [8, 12]
    assert [first for first, *_ in buffer.hand_out(14, 16)] == [12]
    assert (list(buffer.kept), [p[0] for p in buffer.parcels]) == ([], [0, 4, 8, 12, 16])
    buffer.hand_out(2, 9)
    assert ([p[0] for p in buffer.kept], [p[0] for p in buffer.parcels]) == ([0, 4, 8, 12], [16])
    assert [p[0] for p in buffer.close()] == [0, 4, 8, 12, 16]


async def waiting(workers: int) -> tuple[_Feeder, int, list[asyncio.Task[Lease]]]:
    """A feeder without data, and a lease that each worker waits for."""
    feeder = _Feeder()
    generation = await feeder.begin(workers)
    await feeder.open(generation, TRAINING, cast(StreamPlan, None), 8, 0, 80)
    leases = [asyncio.create_task(feeder.lease(generation, TRAINING, 0, rank, 0.0)) for rank in range(workers)]
    await asyncio.sleep(0)
    assert (await feeder.stats())["leases_waiting"] == workers
    return feeder, generation, leases


@pytest.mark.parametrize("replaced", [True, False])
def test_waiting_workers_hear_that_their_group_was_replaced_or_the_stream_closed(
    replaced: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("foundray.data.stream.parcels.parcels", lambda *request: iter(()))

    async def run() -> list[Any]:
        feeder, generation, leases = await waiting(3)
        await (feeder.begin(2) if replaced else feeder.close(generation, TRAINING))
        return await asyncio.wait_for(asyncio.gather(*leases, return_exceptions=True), 10)

    found = asyncio.run(run())
    assert [type(one) for one in found] == [StaleGeneration if replaced else Lease] * 3
