"""Opening a generation of leases, and the orders to join a group."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping

import ray
from ray.exceptions import RayError

from foundray.cluster.connect import node_memory
from foundray.model.flops import known_peak
from foundray.spec import Spec
from foundray.training.elastic.messages import Order, Work
from foundray.training.elastic.workers import KnownWorker, Workers
from foundray.training.protocol.members import Member
from foundray.training.protocol.messages import Event, Join, NotOpened, Open, Opened
from foundray.training.protocol.states import Source, replica_ranks
from foundray.training.step.blocks import shard_bounds
from foundray.training.telemetry.recorder import Recorder

FEEDER_SECONDS, RETRY_SECONDS = 60.0, 0.2
"""Limit for a feeder to restart, and the interval between two attempts to reach it."""
SHARDS_IN_ORDER = 64
"""A source of more shards is sent by reference."""
REPLICA_SECONDS, ONE_NODE_REPLICA_SECONDS = 0.5, 5.0
"""Interval between two replications: repeating the steps lost with a worker takes as long. On a single node only a worker's
process can be lost alone, which is rare, and the processors that copy also compute.
"""


class Opening:
    """Asks the feeder for a generation of leases, which may be restarting, and the first worker for a place to meet."""

    def __init__(self, work: Work, workers: Workers, wanted: Open):
        self.feeder, self.workers, self.wanted = work.feeder, workers, wanted
        self.give_up, self.retry_at = time.monotonic() + FEEDER_SECONDS, 0.0
        self.generation = 0
        self.meeting: tuple[str, int] | None = None
        self.asking = False
        if wanted.world > 1:
            place = workers.of[wanted.host].handle.rendezvous.remote()
            workers.call(place, self._met, lambda error: NotOpened(wanted.attempt, type(error).__name__))

    def poll(self) -> None:
        """Ask the feeder, or ask it again."""
        if not (self.generation or self.asking) and time.monotonic() > self.retry_at:
            self.asking = True
            self.workers.call(self.feeder.begin.remote(self.wanted.world), self._begun, self._not_begun)

    def _met(self, meeting: tuple[str, int]) -> Event | None:
        self.meeting = meeting
        return self._opened()

    def _begun(self, generation: int) -> Event | None:
        self.generation = generation
        return self._opened()

    def _not_begun(self, error: RayError) -> Event | None:
        self.asking, self.retry_at = False, time.monotonic() + RETRY_SECONDS
        return NotOpened(self.wanted.attempt, type(error).__name__) if time.monotonic() > self.give_up else None

    def _opened(self) -> Event | None:
        if self.generation and (self.meeting or self.wanted.world == 1):
            return Opened(self.wanted.attempt, self.generation, self.meeting)
        return None


def orders(join: Join, spec: Spec, workers: Workers, members: Mapping[int, Member], recorder: Recorder) -> list[Order]:
    """The orders to join, by rank."""
    chosen = [workers.of[number] for number in join.numbers]
    facts = [members[number].status.facts for number in join.numbers]
    nodes = [worker.slot.node for worker in chosen]
    holders = replica_ranks(nodes)
    free = [fact["free_bytes"] for fact in facts]
    memory = _shard_memory(chosen, free, Counter(w.slot.node for w in workers.of.values()))
    bounds = shard_bounds(facts[0]["blocks"], memory) if spec.scale.team_size == 1 else None
    peak_flops = _peak_flops(spec, chosen, [fact["hardware"] for fact in facts])
    # What all orders share.
    several_nodes, losses, source = len(set(nodes)) > 1, tuple(recorder.losses) if spec.guard.spike else (), join.source
    if isinstance(source, Source) and len(source.shards) > SHARDS_IN_ORDER:
        source = ray.put(source)  # once for all, as each order would hold every worker's shards
    return [
        Order(
            attempt=join.attempt,
            generation=join.generation,
            rank=rank,
            world=len(chosen),
            rendezvous=join.meeting if len(chosen) > 1 else None,
            source=source,
            bounds=bounds,
            replica_holder=None if holder is None else chosen[holder].handle,
            replica_s=REPLICA_SECONDS if several_nodes else ONE_NODE_REPLICA_SECONDS,
            recorded=recorder.step,
            evaluated=recorder.evaluated,
            failures=join.failures,
            lineage=join.lineage,
            losses=losses,
            roll_backs=join.roll_backs,
            val_losses=tuple(sorted(recorder.val_losses.items())) if spec.train.stop_early else (),
            peak_flops=peak_flops,
        )
        for rank, holder in enumerate(holders)
    ]


def _shard_memory(chosen: list[KnownWorker], free: list[float], on_node: Mapping[str, int]) -> list[float]:
    """Bytes available to each worker's shard: free on its GPU with the model loaded, or its share of the node's memory."""
    bytes_of = node_memory()
    return [f or bytes_of.get(w.slot.node, 1.0) / on_node[w.slot.node] for w, f in zip(chosen, free, strict=True)]


def _peak_flops(spec: Spec, chosen: list[KnownWorker], hardware: list[str]) -> float | None:
    """Peak FLOP/s of the workers' hardware together, if all are known; workers that share a GPU have a share each."""
    peaks = []
    for worker, kind in zip(chosen, hardware, strict=True):
        pool = spec.scale.all_pools[worker.slot.pool]
        share = min(1.0, pool.resources.get("GPU", 1.0))
        peaks.append(pool.peak_flops or share * (known_peak(kind) or 0.0))
    return sum(peaks) if all(peaks) else None
