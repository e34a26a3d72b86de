"""What thousands of workers cost the actors and the driver, without the workers: `make bench-scale`.

The actors' own code runs in this process, with simulated workers whose steps take about a second. Printed per part and size:
CPU time, bytes, calls into an actor and the time that Ray needs to pass these, and the exponent with which the larger of both
times grows from the size before: 1 is linear. The time of a call is measured first, with a few processes that call a trivial
actor. Data, gradients and networks are left out.

A part is a function of a size that returns a `Cost`, and a row in `PARTS`.
"""

from __future__ import annotations

import argparse
import asyncio
import heapq
import math
import pickle
import random
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast
from unittest.mock import patch

import ray
from tests.benchmarks import scale_protocol
from tests.benchmarks.small_runs import machine

from foundray.data.prepare.manifest import Manifest, Prepared, Shard
from foundray.data.stream import manifests
from foundray.data.stream.leases import Lease
from foundray.data.stream.plan import StreamPlan, plan_for
from foundray.data.stream.shares import shares
from foundray.data.stream.stream import RayData, Stream
from foundray.records.lines import encoded
from foundray.records.takers import EVERY, recorded
from foundray.storage import Store
from foundray.testing.records import step_records
from foundray.testing.specs import make_spec
from foundray.training.protocol.states import StateShard, newest_complete, replica_ranks
from foundray.training.slots.board import _Board
from foundray.training.slots.slot import Slot

WORKERS, SHARDS, FILES = (8, 64, 512, 2000), (100, 10_000, 100_000), (100, 1_000, 10_000)
PER_STEP, PER_PARCEL, PER_NODE = 4096, 4, 8
"""Micro-batches per step and per parcel, and workers per node."""
WARM_STEPS, STEPS, SECONDS = 20, 40, 20
"""Steps that do not count, and steps, or seconds, over which a part is measured."""
REFERENCE_BYTES = 28
"""Size of a reference to an object in Ray's store."""
CALLERS, CALLS = 4, 500


@dataclass
class Cost:
    """Costs per step, or per second, call or start, as the part says."""

    cpu_s: float
    bytes: float = 0.0
    calls: float = 0.0


class Stopwatch:
    """CPU seconds of this process inside `with` blocks."""

    def __init__(self) -> None:
        self.seconds = 0.0

    @contextmanager
    def running(self) -> Iterator[None]:
        began = time.process_time()
        yield
        self.seconds += time.process_time() - began


def leases(workers: int) -> Cost:
    """Micro-batches leased, by a stream whose pipeline is always fast enough."""
    return asyncio.run(_Leasing(workers).cost())


class _Leasing:
    """Workers, of slightly unequal speed, that ask in random order."""

    def __init__(self, workers: int):
        self.workers, self.rng, self.watch = workers, random.Random(0), Stopwatch()
        plan = cast(StreamPlan, SimpleNamespace(micro_batch_bytes=2**16))
        end = PER_STEP * (WARM_STEPS + STEPS)
        self.stream = Stream(plan, PER_STEP, 0, end, lambda change: change(), RayData(True), [])
        self.stream.division.begin(workers)
        self.parcels = iter((first, PER_PARCEL, bytes(REFERENCE_BYTES)) for first in range(0, end, PER_PARCEL))
        self.seconds = [self.rng.uniform(0.9, 1.1) / math.ceil(PER_STEP / workers) for _ in range(workers)]
        self.bytes = self.calls = 0

    async def cost(self) -> Cost:
        until, replies = [0] * self.workers, dict[int, Any]()
        for step in range(WARM_STEPS + STEPS):
            if step == WARM_STEPS:
                self.watch.seconds, self.bytes, self.calls = 0.0, 0, 0
            # Leases go on by turns until nobody gets more of this step; then all ask for the next one.
            left = self.rng.sample(range(self.workers), self.workers)
            while left:
                for rank in left:
                    if until[rank] <= step:
                        until[rank] = self._received(replies.pop(rank, None) or self._ask(step, rank))
                left = [rank for rank in left if until[rank] <= step]
            replies |= {rank: self._ask(step + 1, rank) for rank in range(self.workers) if until[rank] == step + 1}
        return Cost(self.watch.seconds / STEPS, self.bytes / STEPS, self.calls / STEPS)

    def _ask(self, step: int, rank: int) -> Any:
        self.calls += 1
        with self.watch.running():
            return self.stream.lease(step, rank, self.seconds[rank])

    def _received(self, reply: Lease | asyncio.Future[Lease]) -> int:
        while isinstance(reply, asyncio.Future) and not reply.done():
            assert self.stream.room.acquire(blocking=False), "a worker waits, and the pipeline may not read"
            self._read()
        while self.stream.room.acquire(blocking=False):
            self._read()
        lease = reply if isinstance(reply, Lease) else reply.result()
        self.bytes += len(pickle.dumps(lease))
        return lease.until

    def _read(self) -> None:
        if parcel := next(self.parcels, None):
            with self.watch.running():
                self.stream._append(parcel)


def board(workers: int) -> Cost:
    """Heartbeats of processes with a slot each, and two readings by the driver, per second."""
    clock, watch, the_board, calls = [0.0], Stopwatch(), _Board(), 0
    due = [(rank / workers, rank) for rank in range(workers)]
    slots = [Slot(f"node-{rank // PER_NODE}", ("0",), "") for rank in range(workers)]
    begins, taken = 3.0 * SECONDS, b""
    with patch("time.monotonic", lambda: clock[0]):
        for reading in range(2 * 4 * SECONDS):
            while due[0][0] < reading / 2:
                clock[0], rank = heapq.heappop(due)
                counted = clock[0] >= begins
                calls += counted
                with watch.running() if counted else Stopwatch().running():
                    seconds = the_board.heartbeat("", rank, slots[rank], 1)
                heapq.heappush(due, (clock[0] + seconds, rank))
            clock[0] = reading / 2
            if clock[0] >= begins:
                calls += 2  # one with records, and one to read
                with watch.running():
                    the_board.append(step_records(1, 1, 0))
                    taken = pickle.dumps(the_board.take())
    return Cost(watch.seconds / SECONDS, 2 * len(taken), calls / SECONDS)


def manifest_of(shards: int) -> Manifest:
    listed = [
        Shard(
            file=f"shards/0-{index:05d}.parquet", source=0, inputs=[f"s3://bucket/corpus/part-{index:05d}.jsonl.gz"],
            documents=1000, rows=4096, tokens=4096 * 1023, text_bytes=2**24, bytes=2**23, sha256=f"{index:064d}", quarantined=0,
        )
        for index in range(shards)
    ]  # fmt: skip
    return Manifest(
        name="x", recipe={}, recipe_sha256="", context=1023, vocabulary=257, document_id=0, tokenizer_sha256="",
        rows_per_group=256, rows=4096 * shards, tokens=0, quarantined=0, shards=listed,
    )  # fmt: skip


def plan(shards: int) -> Cost:
    """A plan: bytes in each task or call, and what a process spends once to read its manifest and know the order."""
    with tempfile.TemporaryDirectory() as folder:
        made = manifest_of(shards)
        (Path(folder) / "manifest.json").write_text(made.model_dump_json(indent=1))
        of_data = plan_for(Prepared(Store.at(folder), made), make_spec())
        manifests._kept.clear()
        watch = Stopwatch()
        with watch.running():
            of_data.order()
    return Cost(watch.seconds, len(pickle.dumps(of_data)))


def log(workers: int) -> Cost:
    """The record of a step, dealt to workers of slightly unequal speed."""
    rng, watch, size = random.Random(0), Stopwatch(), 0
    (record,) = step_records(123_456, 123_456, 0)
    for step in range(EVERY):
        counts = shares(PER_STEP, [rng.uniform(0.9, 1.1) for _ in range(workers)])
        ranks = [rank for rank, count in enumerate(counts) for _ in range(count)]
        with watch.running():
            size += len(encoded([record | {"takers": recorded(step, ranks)}]))
    return Cost(watch.seconds / EVERY, size / EVERY)


def start_up_checks(files: int) -> Cost:
    """Whether all prepared files are there, once per start. Calls are none: requests to storage are one per folder."""
    with tempfile.TemporaryDirectory() as folder:
        made, watch = manifest_of(files), Stopwatch()
        (Path(folder) / "shards").mkdir()
        for shard in made.shards:
            shard.bytes = 1
            (Path(folder) / shard.file).write_bytes(b"x")
        with watch.running():
            Prepared(Store.at(folder), made).check_files()
    return Cost(watch.seconds)


def replica_holders(workers: int) -> Cost:
    """Who keeps whose replica, and where the newest state is, once per group."""
    nodes, watch = [f"node-{rank // PER_NODE}" for rank in range(workers)], Stopwatch()
    with watch.running():
        holders = replica_ranks(nodes)
    held: dict[int, list[StateShard]] = {rank: [StateShard(10, 1, rank, rank + 1)] for rank in range(workers)}
    for rank, holder in enumerate(holders):
        held[cast(int, holder)] = [*held[cast(int, holder)], held[rank][0]]
    with watch.running():
        assert newest_complete(held, workers)
    return Cost(watch.seconds)


@dataclass(frozen=True)
class Part:
    """A row of the table."""

    name: str
    per: str
    """What a cost is for."""
    of: str
    """What a size counts."""
    sizes: tuple[int, ...]
    cost: Callable[[int], Cost]


PARTS = (
    Part("leases", "step", "workers", WORKERS, leases),
    Part("board", "second", "workers", WORKERS, board),
    Part("plan", "process", "shards", SHARDS, plan),
    Part("log", "step", "workers", WORKERS, log),
    Part("start-up checks", "start", "shards", FILES, start_up_checks),
    Part("replica holders", "group", "workers", WORKERS, replica_holders),
    Part("statuses", "second", "workers", WORKERS, lambda workers: Cost(*scale_protocol.statuses(workers))),
    Part("checkpoint", "each", "workers", WORKERS, lambda workers: Cost(*scale_protocol.checkpoint(workers))),
    Part("lost worker", "each", "workers", WORKERS, lambda workers: Cost(*scale_protocol.failure(workers))),
)


class _Trivial:
    async def call(self) -> int:
        return 0


class _Caller:
    def calls(self, actor: Any) -> None:
        for _ in range(CALLS):
            ray.get(actor.call.remote())


def call_seconds() -> float:
    """Seconds that Ray needs to pass a call to an async actor, if several processes call it as fast as they get replies."""
    ray.init(include_dashboard=False, logging_level="error")
    try:
        trivial = ray.remote(_Trivial).options(num_cpus=0).remote()
        callers = [ray.remote(_Caller).options(num_cpus=0).remote() for _ in range(CALLERS)]
        for _ in range(2):  # the first one starts the processes
            began = time.perf_counter()
            ray.get([caller.calls.remote(trivial) for caller in callers])
        return (time.perf_counter() - began) / (CALLERS * CALLS)
    finally:
        ray.shutdown()


def rows(part: Part, call_s: float) -> Iterator[str]:
    """The part's lines, as they are measured."""
    before: tuple[int, float] | None = None
    for size in part.sizes:
        cost = part.cost(size)
        seconds = max(cost.cpu_s, cost.calls * call_s)
        grown = f"{math.log(seconds / before[1]) / math.log(size / before[0]):6.2f}" if before else "     -"
        calls = f"{cost.calls:9,.1f} {1e3 * cost.calls * call_s:10,.1f}" if cost.calls else f"{'-':>9} {'-':>10}"
        size_bytes = f"{cost.bytes:12,.0f}" if cost.bytes else f"{'-':>12}"
        yield f"{part.name:16} {part.per:8} {size:8,} {part.of:8} {1e3 * cost.cpu_s:9,.2f} {size_bytes} {calls} {grown}"
        before = size, seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", nargs="*", metavar="NAME", help="only these (all)")
    options = parser.parse_args()
    print(machine())
    call_s = call_seconds()
    print(f"a call into an actor: {1e3 * call_s:.2f} ms, {1 / call_s:,.0f} per second")
    print(f"{'part':16} {'per':8} {'size':>8} {'of':8} {'CPU ms':>9} {'bytes':>12} {'calls':>9} {'of Ray, ms':>10} growth")
    for part in PARTS:
        if not options.parts or part.name in options.parts:
            for row in rows(part, call_s):
                print(row, flush=True)


if __name__ == "__main__":
    main()
