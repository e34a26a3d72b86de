"""Workers of the elastic system and their group, whose steps pass arithmetically."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import pairwise

from tests.benchmarks.goodput.costs import Costs

from foundray.training.protocol.messages import Phase, Status
from foundray.training.protocol.states import StateShard, replica_ranks

BLOCKS = 100_000


@dataclass
class Worker:
    number: int
    node: str
    status: Status = field(default_factory=Status)
    alive: bool = True
    held: tuple[StateShard, ...] = ()
    leaves_at: float = 0.0
    """Time at which its micro-batch under way is done."""


class Group:
    """It computes from `begins` until it is stopped."""

    def __init__(self, costs: Costs, generation: int, workers: list[Worker], base: int, begins: float):
        self.costs, self.generation, self.workers, self.base, self.begins = costs, generation, workers, base, begins
        stretched = 1 + costs.mirror_overhead + costs.checkpoint_block_s / costs.fallback_s
        self.step_s = costs.step(len(workers)) * stretched
        bounds = [BLOCKS * rank // len(workers) for rank in range(len(workers) + 1)]
        self.bounds = list(pairwise(bounds))
        self.replicas_of: dict[int, list[int]] = {}
        """Ranks whose replicas each rank keeps."""
        for rank, holder in enumerate(replica_ranks([worker.node for worker in workers])):
            if holder is not None:
                self.replicas_of.setdefault(holder, []).append(rank)
        self.broken = Status(Phase.BROKEN, 2, generation, "closed by peer")
        """What a worker says once it has left the broken group."""
        self.stopped: float | None = None

    def steps(self, now: float) -> int:
        """Steps of the run done by then."""
        now = now if self.stopped is None else min(now, self.stopped)
        return self.base + int(max(0.0, now - self.begins) / self.step_s + 1e-9)

    def boundary(self, now: float) -> float:
        """The end of the step under way, or of the first one."""
        return self.begins + (self.steps(now) - self.base + 1) * self.step_s

    def copied(self, now: float) -> int | None:
        """Step of the last replication that has arrived by then; None if that is of another group."""
        copy_s = self.costs.state_gb / len(self.workers) / self.costs.move_gb_s
        last = self.steps(now - copy_s)
        return (
            max(self.base, last // self.costs.mirror_every * self.costs.mirror_every) if now >= self.begins + copy_s else None
        )

    def stored(self, now: float) -> int:
        """Step of its last checkpoint that is written by then; 0 if it has none."""
        each = max(1, int(self.costs.fallback_s / self.step_s))
        last = self.steps(now - self.costs.storage_s) // each * each
        return last if last > self.base else 0

    def stop(self, now: float) -> None:
        """Stop computing: each living worker keeps its live shard, and the copies that have arrived."""
        self.stopped = now
        if now < self.begins:
            return  # they still hold what the group was to begin from
        done, copied = self.steps(now), self.copied(now)
        for rank, worker in enumerate(self.workers):
            if worker.alive:
                live = StateShard(done, self.generation, *self.bounds[rank])
                worker.held = (live, *(worker.held if copied is None else self._copies(rank, copied)))

    def _copies(self, rank: int, copied: int) -> list[StateShard]:
        kept = [rank, *self.replicas_of.get(rank, [])]
        return [StateShard(copied, self.generation, *self.bounds[one]) for one in kept]
