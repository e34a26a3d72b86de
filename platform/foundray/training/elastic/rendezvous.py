"""The current group, and how the next one is formed: from which workers, and from which state."""

from __future__ import annotations

import time
from collections.abc import Callable

import ray
from ray.exceptions import RayActorError, RayError

from foundray.runs.lineage import usable
from foundray.spec import Spec
from foundray.training.elastic.committer import Committer
from foundray.training.elastic.messages import Order, Status, Work
from foundray.training.elastic.recovery import StateShard, newest_complete, replica_ranks
from foundray.training.elastic.worker_pool import KnownWorker, WorkerPool
from foundray.training.rollback import next_turn, passed_over
from foundray.training.step.blocks import shard_bounds
from foundray.training.telemetry.recorder import Recorder

PROBE_SECONDS = 0.7
"""A worker that does not answer within this time when its group is broken is left out of the next one."""
HALT_SECONDS = 60.0
"""Limit for a worker to leave a broken group: it finishes its micro-batch."""
FEEDER_SECONDS = 60.0
"""Limit for a feeder to restart."""
REPLICA_SECONDS, ONE_NODE_REPLICA_SECONDS = 0.5, 5.0
"""Interval between two replications: repeating the steps lost with a worker takes as long. On a single node only a worker's
process can be lost alone, which is rare, and the processors that copy also compute.
"""


class Rendezvous:
    def __init__(
        self,
        spec: Spec,
        work: Work,
        worker_pool: WorkerPool,
        recorder: Recorder,
        committer: Committer,
        note: Callable[..., None],
    ):
        self.spec, self.work, self.worker_pool = spec, work, worker_pool
        self.recorder, self.committer, self.note = recorder, committer, note
        self.group: list[int] = []
        """Numbers of the workers in the group, in rank order."""
        self.generation = 0

    def statuses(self) -> list[Status]:
        """Statuses of the current group's remaining workers."""
        found = [self.worker_pool.workers[number].status for number in self.group if number in self.worker_pool.workers]
        return [status for status in found if status.generation == self.generation]

    def all_are(self, phase: str) -> bool:
        """Tell whether all workers of the group are present and in this phase."""
        found = self.statuses()
        return bool(found) and len(found) == len(self.group) and all(status.phase == phase for status in found)

    def joiners(self) -> list[KnownWorker]:
        """Workers outside the group that could join it."""
        room = self.spec.scale.world[1] - len(self.group)
        waiting = [worker for number, worker in self.worker_pool.workers.items() if number not in self.group]
        able = [k for k in waiting if k.status.phase in ("ready", "paused", "broken") and self.worker_pool.may_stay(k)]
        return able[:room]

    def leavers(self) -> list[KnownWorker]:
        """Workers that should leave, if enough remain."""
        leaving = [
            self.worker_pool.workers[n]
            for n in self.group
            if n in self.worker_pool.workers and not self.worker_pool.may_stay(self.worker_pool.workers[n])
        ]
        staying = len(self.group) - len(leaving) + len(self.joiners())
        return leaving if staying >= self.spec.scale.world[0] else []

    def prefetch(self) -> None:
        """Prefetch what the first group will most likely need: its workers, and the data from the last checkpoint on."""
        self.worker_pool.prefetch()
        done, roll_backs, per_step = (
            max(self.committer.steps, default=0),
            self.recorder.roll_backs,
            self.spec.train.micro_batches,
        )
        offset, until = passed_over(roll_backs, done), next_turn(roll_backs, done) or self.spec.train.steps
        if done < until:
            self.work.feeder.prefetch.remote(self.work.plan, per_step, done + offset, (until + offset) * per_step)

    def halt(self, old: list[int]) -> dict[int, list[StateShard]]:
        """Stop what is under way. Returns the state shards of each worker that answers, by number, in the old group's order."""
        order = [n for n in old if n in self.worker_pool.workers] + [n for n in self.worker_pool.workers if n not in old]
        asked = [
            self.worker_pool.workers[number] for number in order if self.worker_pool.workers[number].status.phase != "warming"
        ]
        # Ask all at once: one call shows whether a worker is alive, the other waits until it has left its group.
        probes = {k.handle.watch.remote(-1): k for k in asked}
        halts = {k.number: k.handle.halt.remote(HALT_SECONDS) for k in asked}
        answered, _ = ray.wait(list(probes), num_returns=len(probes), timeout=PROBE_SECONDS)
        # Only workers that answered in time, and no longer run, take part in what follows.
        held: dict[int, list[StateShard]] = {}
        for k in asked:
            try:
                if any(probes[ref] is k for ref in answered):
                    status, shards = ray.get(halts[k.number], timeout=HALT_SECONDS + 5)
                    k.status.facts.update(status.facts)
                    if status.phase != "running":
                        held[k.number] = shards
            except RayError as error:
                self.worker_pool.lose(k, type(error).__name__)
        return held

    def choose(self, old: list[int], held: dict[int, list[StateShard]]) -> list[int]:
        """Choose the workers of the next group among those that answered. Those that leave hand their state shards over."""
        staying = [number for number in held if self.worker_pool.may_stay(self.worker_pool.workers[number])]
        # A worker on a draining node continues if the run would otherwise stop.
        needed = max(0, self.spec.scale.world[0] - len(staying))
        staying += [number for number in held if number in old and number not in staying][:needed]
        self._hand_over(old, held, staying)
        return staying

    def _hand_over(self, old: list[int], held: dict[int, list[StateShard]], staying: list[int]) -> None:
        """Copy the state shards of leaving workers to one that stays."""
        for number in [n for n in held if n not in staying]:
            if number in old and staying:
                successor = staying[0]
                shard = ray.get(
                    self.worker_pool.workers[number].handle.hand_over.remote(self.worker_pool.workers[successor].handle),
                    timeout=60,
                )
                if shard is not None:
                    held[successor] = [*held[successor], shard]
                self.worker_pool.workers[number].handed_over = True
                self.note("member_left", member=number, node=self.worker_pool.workers[number].node)

    def start(self, chosen: list[int], held: dict[int, list[StateShard]], failures: int) -> None:
        """Order the chosen workers to join, from the newest complete state that they hold or that is stored.

        `failures` counts the groups broken since the command began. Raises RayError if another worker is lost meanwhile.
        """
        workers = [self.worker_pool.workers[number] for number in chosen]
        # The state: what the workers hold and no cut has undone, unless a checkpoint is newer.
        lineage = self.recorder.lineage
        held_by_rank = {
            rank: [shard for shard in held[number] if usable(shard.step, shard.made_under, lineage)]
            for rank, number in enumerate(chosen)
        }
        source = newest_complete(held_by_rank, workers[0].status.facts["blocks"])
        if source is not None and source.step < max(self.committer.steps, default=0):
            source = None
        # What the workers share: the leases' generation, and where to meet.
        self.generation = self._begin_feeder(len(chosen))
        rendezvous = ray.get(workers[0].handle.rendezvous.remote(), timeout=5) if len(chosen) > 1 else None
        # Who keeps whose replica, and how the state is cut.
        nodes = [worker.slot.node for worker in workers]
        replica_holders = replica_ranks(nodes)
        peak_flops = self.worker_pool.peak_flops(workers)
        bounds = shard_bounds(workers[0].status.facts["blocks"], self.worker_pool.shard_memory(workers))
        for rank, worker in enumerate(workers):
            replica_holder = replica_holders[rank]
            order = Order(
                generation=self.generation,
                rank=rank,
                world=len(chosen),
                rendezvous=rendezvous,
                source=source,
                bounds=bounds,
                replica_holder=None if replica_holder is None else workers[replica_holder].handle,
                replica_s=REPLICA_SECONDS if len(set(nodes)) > 1 else ONE_NODE_REPLICA_SECONDS,
                recorded=self.recorder.step,
                evaluated=self.recorder.evaluated,
                failures=failures,
                lineage=lineage,
                losses=tuple(self.recorder.losses) if self.spec.guard.spike else (),
                roll_backs=self.recorder.roll_backs,
                peak_flops=peak_flops,
            )
            worker.handle.take_part.remote(order)
            worker.handed_over = False
            worker.status = Status("running", -1, self.generation, facts=worker.status.facts)
        self.group = chosen

    def _begin_feeder(self, world: int) -> int:
        """Begin a new generation of leases; the feeder itself may be restarting."""
        give_up = time.monotonic() + FEEDER_SECONDS
        while True:
            try:
                return int(ray.get(self.work.feeder.begin.remote(world), timeout=FEEDER_SECONDS))
            except RayActorError:
                if time.monotonic() > give_up:
                    raise
                time.sleep(0.2)
