"""What the protocol costs the driver with thousands of workers, for `bench_scale`."""

from __future__ import annotations

import pickle
import time
from dataclasses import replace

from foundray.testing.specs import make_spec
from foundray.training.checkpoints.written import ShardFile
from foundray.training.elastic.workers import WATCH_SECONDS, WATCHES_PER_SECOND
from foundray.training.protocol import messages as m
from foundray.training.protocol.protocol import Protocol
from foundray.training.protocol.stages import History, Stage
from foundray.training.protocol.states import StateShard, replica_ranks
from foundray.training.slots.slot import Slot

PER_NODE = 8
LOOKS_PER_SECOND = 10
"""Looks of the driver per second if news arrive all the time."""


class Fleet:
    """A protocol with workers that compute, in a group."""

    def __init__(self, workers: int):
        self.workers, self.now, self.cpu_s = workers, 0.0, 0.0
        spec = make_spec(scale={"workers": [1, workers], "resources": {"CPU": 1}}, train__checkpoint_every=1)
        self.protocol = Protocol(spec, History(), "foundray resume", 0.0)
        self.slots = m.SlotsHeld(tuple(Slot(f"node-{rank // PER_NODE}", (), "") for rank in range(workers)))
        self.take(self.slots)
        facts = {"blocks": workers, "parameters": []}
        self.statuses = {n: m.Status(m.Phase.READY, 1, facts=facts) for n in self.protocol.members.of}
        self.take(*(m.Heard(number, status) for number, status in self.statuses.items()))
        self.form({})

    def take(self, *events: m.Event) -> None:
        self.now += 1e-3
        began = time.process_time()
        self.protocol.take(events, self.now)
        self.cpu_s += time.process_time() - began

    def form(self, held: dict[int, tuple[StateShard, ...]]) -> None:
        """Answer what the protocol asks until it has ordered a group to join."""
        attempt = self.protocol.attempt
        asked = {number: self.statuses[number] for number in attempt.asked}
        self.take(*(m.Halted(attempt.number, n, status, held.get(n, ())) for n, status in asked.items()))
        self.take(m.Opened(attempt.number, attempt.number, ("host", 1)))
        assert self.protocol.stage is Stage.COMPUTING
        for number in self.protocol.group:
            self.statuses[number] = m.Status(m.Phase.RUNNING, self.statuses[number].version + 1, self.protocol.generation)
        self.take(*(m.Heard(number, self.statuses[number]) for number in self.protocol.group))

    def say(self, number: int, **changes: object) -> m.Heard:
        status = self.statuses[number]
        self.statuses[number] = replace(status, version=status.version + 1, **changes)
        return m.Heard(number, self.statuses[number])


def statuses(workers: int) -> tuple[float, float, float]:
    """CPU seconds, bytes and calls per second while all compute."""
    fleet, seconds = Fleet(workers), 10
    fleet.cpu_s = 0.0
    calls = int(workers / max(WATCH_SECONDS, workers / WATCHES_PER_SECOND))
    numbers = list(fleet.protocol.group)
    for second in range(seconds):
        for look in range(LOOKS_PER_SECOND):
            some = numbers[look * calls // LOOKS_PER_SECOND : (look + 1) * calls // LOOKS_PER_SECOND]
            fleet.take(
                *(m.Heard(number, fleet.statuses[number]) for number in some), m.Recorded(second), m.Stored(second), m.Tick()
            )
        fleet.take(fleet.slots)
    return fleet.cpu_s / seconds, calls * len(pickle.dumps(fleet.statuses[numbers[0]])), calls


def checkpoint(workers: int) -> tuple[float, float, float]:
    """CPU seconds, bytes and calls per checkpoint: every worker says which shard it has written."""
    fleet = Fleet(workers)
    fleet.cpu_s, size, generation = 0.0, 0, fleet.protocol.generation
    for rank, number in enumerate(fleet.protocol.group):
        shard = ShardFile(file=f"{rank}", ranges=[(rank, rank + 1)], bytes=1, sha256="0" * 64, generation=generation)
        heard = fleet.say(number, written=(m.Written(generation, 1, "", (shard,), 0.1),))
        size += len(pickle.dumps(heard.status))
        fleet.protocol.now += 1e-3
        began = time.process_time()
        fleet.protocol.commits.take(number, heard.status.written)
        fleet.cpu_s += time.process_time() - began
    assert fleet.protocol.commits.pending[1].covered
    return fleet.cpu_s, size, workers


def failure(workers: int) -> tuple[float, float, float]:
    """CPU seconds, bytes and calls from the loss of a worker to the orders of the next group."""
    fleet = Fleet(workers)
    group = list(fleet.protocol.group)
    nodes = [fleet.protocol.members.of[number].slot.node for number in group]
    shards = [StateShard(10, fleet.protocol.generation, rank, rank + 1) for rank in range(workers)]
    held = {number: (shard,) for number, shard in zip(group, shards, strict=True)}
    for rank, holder in enumerate(replica_ranks(nodes)):
        if holder is not None:
            held[group[holder]] = (*held[group[holder]], shards[rank])
    fleet.cpu_s = 0.0
    broken = [fleet.say(number, phase=m.Phase.BROKEN, reason="closed by peer") for number in group[1:]]
    fleet.take(m.Gone(group[0], "ActorDiedError"), *broken)
    fleet.form(held)
    size = sum(len(pickle.dumps(held[number])) for number in group[1:])
    return fleet.cpu_s, size, 4 * len(broken)
