"""The present group, and how the next one is formed: of whom, and from which state it goes on."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable

import ray
from ray.exceptions import RayActorError, RayError

from foundray.spec import Spec
from foundray.training.elastic.committer import Committer
from foundray.training.elastic.messages import Order, Status, Work
from foundray.training.elastic.recovery import StateShard, buddies, newest_whole
from foundray.training.elastic.worker_pool import KnownWorker, WorkerPool
from foundray.training.rollback import next_turn, passed_over
from foundray.training.step.blocks import shard_bounds
from foundray.training.telemetry.recorder import Recorder

PROBE_SECONDS = 0.7
"""A member that does not answer for so long when its group is broken is left out of the next one."""
HALT_SECONDS = 60.0
"""Longest that a member may take to come out of a broken group: it finishes its micro-batch."""
FEEDER_SECONDS = 60.0
"""Longest that a feeder takes to start anew."""
MIRROR_SECONDS, NEAR_MIRROR_SECONDS = 0.5, 5.0
"""Between two mirrorings: steps that are lost with a worker take as long again. On one node only a worker's process can be lost
alone, which is rare, and the processors that copy are the ones that compute."""


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
        """Numbers of the members that take part, in rank order."""
        self.generation = 0
        self.trusted = sys.maxsize
        """The last step whose state the next group may go on from."""

    def statuses(self) -> list[Status]:
        """Of the members of the present group that are left."""
        found = [self.worker_pool.members[number].status for number in self.group if number in self.worker_pool.members]
        return [status for status in found if status.generation == self.generation]

    def all_are(self, phase: str) -> bool:
        """Whether all members of the group are there, and in this phase."""
        found = self.statuses()
        return bool(found) and len(found) == len(self.group) and all(status.phase == phase for status in found)

    def joiners(self) -> list[KnownWorker]:
        """Members that could take part besides."""
        room = self.spec.scale.world[1] - len(self.group)
        waiting = [known for number, known in self.worker_pool.members.items() if number not in self.group]
        return [k for k in waiting if k.status.phase in ("ready", "paused", "broken") and self.worker_pool.may_stay(k)][:room]

    def leavers(self) -> list[KnownWorker]:
        """Members that should go, as long as enough are left."""
        going = [
            self.worker_pool.members[n]
            for n in self.group
            if n in self.worker_pool.members and not self.worker_pool.may_stay(self.worker_pool.members[n])
        ]
        staying = len(self.group) - len(going) + len(self.joiners())
        return going if staying >= self.spec.scale.world[0] else []

    def prefetch(self) -> None:
        """Let get ready what the first group will most likely need: its members, and the data from the last checkpoint on."""
        self.worker_pool.prefetch()
        done, turns, per_step = max(self.committer.steps, default=0), self.recorder.roll_backs, self.spec.train.micro_batches
        ahead, until = passed_over(turns, done), next_turn(turns, done) or self.spec.train.steps
        if done < until:
            self.work.feeder.prefetch.remote(self.work.plan, per_step, done + ahead, (until + ahead) * per_step)

    def halt(self, old: list[int]) -> dict[int, list[StateShard]]:
        """Break off what is under way. Gives the pieces of every member that answers, by number, in the old group's order."""
        order = [n for n in old if n in self.worker_pool.members] + [n for n in self.worker_pool.members if n not in old]
        known = [
            self.worker_pool.members[number] for number in order if self.worker_pool.members[number].status.phase != "warming"
        ]
        probes = {k.handle.watch.remote(-1): k for k in known}
        halts = {k.number: k.handle.halt.remote(HALT_SECONDS) for k in known}
        answered, _ = ray.wait(list(probes), num_returns=len(probes), timeout=PROBE_SECONDS)
        held: dict[int, list[StateShard]] = {}
        for k in known:
            try:
                if any(probes[ref] is k for ref in answered):
                    status, pieces = ray.get(halts[k.number], timeout=HALT_SECONDS + 5)
                    k.status.facts.update(status.facts)
                    if status.phase != "running":
                        held[k.number] = pieces
            except RayError as error:
                self.worker_pool.lose(k, type(error).__name__)
        return held

    def choose(self, old: list[int], held: dict[int, list[StateShard]]) -> list[int]:
        """Who takes part next, of those who answered. Those of the old group who do not give their piece to one who does."""
        staying = [number for number in held if self.worker_pool.may_stay(self.worker_pool.members[number])]
        # One on a draining node goes on, rather than that the run stands still.
        needed = max(0, self.spec.scale.world[0] - len(staying))
        staying += [number for number in held if number in old and number not in staying][:needed]
        self._hand_over(old, held, staying)
        return staying

    def _hand_over(self, old: list[int], held: dict[int, list[StateShard]], staying: list[int]) -> None:
        """Those who go give their piece to one who stays."""
        for number in [n for n in held if n not in staying]:
            if number in old and staying:
                successor = staying[0]
                piece = ray.get(
                    self.worker_pool.members[number].handle.hand_over.remote(self.worker_pool.members[successor].handle),
                    timeout=60,
                )
                if piece is not None:
                    held[successor] = [*held[successor], piece]
                self.worker_pool.members[number].left = True
                self.note("member_left", member=number, node=self.worker_pool.members[number].node)

    def start(self, chosen: list[int], held: dict[int, list[StateShard]], failures: int) -> None:
        """Order the chosen to take part, from the newest whole state that they hold or that is stored.

        `failures` counts the groups that broke since the command began. Raises RayError where one more is lost meanwhile.
        """
        members = [self.worker_pool.members[number] for number in chosen]
        usable = {rank: [p for p in held[n] if p.step <= self.trusted] for rank, n in enumerate(chosen)}
        source = newest_whole(usable, members[0].status.facts["blocks"])
        if source is not None and source.step < max(self.committer.steps, default=0):
            source = None
        self.generation = self._begin_feeder(len(chosen))
        rendezvous = ray.get(members[0].handle.rendezvous.remote(), timeout=5) if len(chosen) > 1 else None
        nodes = [known.place.node for known in members]
        mirrors = buddies(nodes)
        peak_flops = self.worker_pool.peak_flops(members)
        bounds = shard_bounds(members[0].status.facts["blocks"], self.worker_pool.room(members))
        for rank, known in enumerate(members):
            mirror = mirrors[rank]
            order = Order(
                generation=self.generation,
                rank=rank,
                world=len(chosen),
                rendezvous=rendezvous,
                source=source,
                bounds=bounds,
                mirror=None if mirror is None else members[mirror].handle,
                mirror_s=MIRROR_SECONDS if len(set(nodes)) > 1 else NEAR_MIRROR_SECONDS,
                recorded=self.recorder.step,
                evaluated=self.recorder.evaluated,
                failures=failures,
                trusted=self.trusted,
                losses=tuple(self.recorder.losses) if self.spec.guard.spike else (),
                roll_backs=self.recorder.roll_backs,
                peak_flops=peak_flops,
            )
            known.handle.take_part.remote(order)
            known.left = False
            known.status = Status("running", -1, self.generation, facts=known.status.facts)
        self.group, self.trusted = chosen, sys.maxsize

    def _begin_feeder(self, world: int) -> int:
        """A new generation of leases; the feeder may be starting anew itself."""
        give_up = time.monotonic() + FEEDER_SECONDS
        while True:
            try:
                return int(ray.get(self.work.feeder.begin.remote(world), timeout=FEEDER_SECONDS))
            except RayActorError:
                if time.monotonic() > give_up:
                    raise
                time.sleep(0.2)
