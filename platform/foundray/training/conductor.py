"""The conductor: decides, in the driver, which members compute together, and from which state they go on.

Ray Train decides where workers may be: it reserves places, elastically, and finds new ones when nodes are lost or added.
In each place the conductor keeps a member, a process that outlives Ray Train's. When a group breaks, the members that
are left form the next one at once, from the newest whole state in their memories; a new member warms up beside the
others' work and is taken in between two steps, as one on a draining node is let go.
"""

from __future__ import annotations

import sys
import time
from collections import Counter
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import ray
from ray.exceptions import RayActorError, RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from foundray.cluster import draining_nodes, node_resources
from foundray.errors import InputError, RunFailed
from foundray.holder import Holder
from foundray.run import Run, event
from foundray.spec import Spec
from foundray.training.board import Place
from foundray.training.checkpoint import CheckpointManifest, ShardFile, commit, completed, completed_steps, step_of
from foundray.training.member import Member, Order, Status, Work
from foundray.training.places import Places
from foundray.training.record import Recorder
from foundray.training.recovery import Piece, buddies, newest_whole

LISTEN_SECONDS = 0.1
BOARD_SECONDS = 0.2
PROBE_SECONDS = 0.7
"""A member that does not answer for so long when its group is broken is left out of the next one."""
HALT_SECONDS = 60.0
"""Longest that a member may take to come out of a broken group: it finishes its micro-batch."""
FEEDER_SECONDS = 60.0
"""Longest that a feeder takes to start anew."""
GATHER_SECONDS = 30.0
"""At the start, how long the first members wait for others whose places are held."""
SHUN_SECONDS = 10.0
FORSAKEN_SECONDS = 90.0
"""A member whose place Ray Train holds no more for so long is let go."""


@dataclass
class Known:
    """A member, as the conductor knows it."""

    handle: Any
    place: Place
    number: int
    watch: Any
    """The call that will bring the member's next status."""
    status: Status = field(default_factory=Status)
    started: float = field(default_factory=time.monotonic)
    forsaken: float | None = None
    """Since when nobody holds its place."""


class Conductor:
    def __init__(self, spec: Spec, run: Run, work: Work, recorder: Recorder, places: Places, holder: Holder):
        self.spec, self.run_folder, self.work, self.recorder = spec, run, work, recorder
        self.ray_train, self.holder = places, holder
        self.members: dict[int, Known] = {}
        self.group: list[int] = []
        """Numbers of the members that take part, in rank order."""
        self.generation = 0
        self.places: list[Place] = []
        self.draining: set[str] = set()
        self.shunned: dict[str, float] = {}
        """Nodes on which no member could start, and until when none is started there."""
        self.numbers = 0
        self.pausing = False
        self.waiting_since = time.monotonic()
        self.told_waiting = False
        self.failures = 0
        """Groups broken in a row, without a step in between."""
        self.broken = 0
        """Groups broken in all."""
        self.failed_at = -1
        self.trusted = sys.maxsize
        """The last step whose state the next group may go on from."""
        self.due: dict[str, float] = {}
        self.steps_stored = completed_steps(run.checkpoints)
        self.committer = ThreadPoolExecutor(1)
        self.commits: dict[tuple[int, int], Future[None]] = {}
        self.commit_problem = "storage does not answer"
        self.told: set[tuple[int, int, int]] = set()
        self.done_since = time.monotonic()

    def run(self) -> None:
        """Until the run is finished. Raises InputError or RunFailed."""
        while not self._finished():
            self._listen()
            self._read_board()
            self._tend_members()
            self._complete_checkpoints()
            self._form_group_if_due()
            if self.holder.taken:
                raise RunFailed(f"another command has taken over the run {self.run_folder.folder}")
            if not self.group and (reason := self.ray_train.problem()):
                raise RunFailed(f"Ray Train gave up: {reason}")
        sha = next(s.facts["weights_sha256"] for s in self._group_statuses() if s.facts.get("weights_sha256"))
        self._read_board(now=True)
        self.recorder.write([event("finished", step=self.spec.train.steps, weights_sha256=sha)])

    def close(self) -> None:
        """Let the members and their places go."""
        with suppress(RayError):
            self.recorder.write(ray.get(self.work.board.take.remote(), timeout=5)[0])
            ray.get(self.work.board.close.remote(), timeout=5)
        for known in self.members.values():
            ray.kill(known.handle)
        self.committer.shutdown(wait=False, cancel_futures=True)

    # Hearing from members and places

    def _listen(self) -> None:
        watches = {known.watch: known for known in self.members.values()}
        if not watches:
            return time.sleep(LISTEN_SECONDS)
        if ray.wait(list(watches), num_returns=1, timeout=LISTEN_SECONDS)[0]:
            for answered in ray.wait(list(watches), num_returns=len(watches), timeout=0)[0]:
                known = watches[answered]
                try:
                    self._hear(known, ray.get(answered))
                except RayError as error:  # its process or its node is gone, or was before it could start
                    self._lose(known, type(error).__name__)

    def _hear(self, known: Known, status: Status) -> None:
        if status.phase == "ready" and known.status.phase == "warming":
            seconds = round(time.monotonic() - known.started, 3)
            self._note("member_ready", member=known.number, node=known.place.node, seconds=seconds, **_short(status.facts))
        if status.phase == "failed":
            kind = InputError if status.exit_status == InputError.exit_status else RunFailed
            raise kind(status.reason)
        facts = known.status.facts | status.facts
        known.status = status
        known.status.facts.update(facts)
        known.watch = known.handle.watch.remote(status.version)

    def _lose(self, known: Known, reason: str) -> None:
        self._note("member_lost", member=known.number, node=known.place.node, reason=reason)
        if known.status.phase == "warming":  # Ray Train may not know yet that the node is gone
            self.shunned[known.place.node] = time.monotonic() + SHUN_SECONDS
        self.members.pop(known.number, None)
        with suppress(RayError):
            ray.kill(known.handle)

    def _read_board(self, now: bool = False) -> None:
        if now or self._due("board", BOARD_SECONDS):
            records, self.places = ray.get(self.work.board.take.remote(), timeout=60)
            self.recorder.write(records)
            self._check_skipped()

    def _tend_members(self) -> None:
        """One member for each place; a member without a place for long, or on a draining node, is let go."""
        if not self._due("places", 0.5):
            return
        self.draining = draining_nodes()
        held = Counter((place.node, place.gpus) for place in self.places)
        for known in list(self.members.values()):
            key = (known.place.node, known.place.gpus)
            held[key] -= 1
            known.forsaken = None if held[key] >= 0 else (known.forsaken or time.monotonic())
            idle = known.number not in self.group
            if idle and (self._forsaken(known) or known.place.node in self.draining) and known.status.phase != "warming":
                self._lose(known, "its node is draining" if known.place.node in self.draining else "its place is gone")
        for place in self.places:
            key = (place.node, place.gpus)
            shunned = self.shunned.get(place.node, 0) > time.monotonic() or place.node in self.draining
            if held[key] > 0 and not shunned and len(self.members) < self.spec.scale.workers[1]:
                held[key] -= 1
                self._start_member(place)

    def _forsaken(self, known: Known) -> bool:
        # While Ray Train rearranges its group no place is held at all, and that says nothing.
        return bool(self.places) and known.forsaken is not None and time.monotonic() - known.forsaken > FORSAKEN_SECONDS

    def _start_member(self, place: Place) -> None:
        self.numbers += 1
        there = NodeAffinitySchedulingStrategy(place.node, soft=False)
        # The place's GPUs are reserved by Ray Train's worker; its member sees the same ones.
        environment = {"CUDA_VISIBLE_DEVICES": ",".join(place.gpus), "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0"}
        handle = (
            ray.remote(Member)
            .options(
                num_cpus=0,
                max_concurrency=32,
                scheduling_strategy=there,
                runtime_env={"env_vars": environment} if place.gpus else None,
            )
            .remote(self.work, "cuda" if place.gpus else "cpu")
        )
        self.members[self.numbers] = Known(handle, place, self.numbers, handle.watch.remote(0))

    # Forming groups

    def _group_statuses(self) -> list[Status]:
        """Of the members of the present group that are left."""
        found = [self.members[number].status for number in self.group if number in self.members]
        return [status for status in found if status.generation == self.generation]

    def _form_group_if_due(self) -> None:
        phases = [status.phase for status in self._group_statuses()]
        left = [number for number in self.group if number in self.members]
        if not self.group:
            if self._enough_at_the_start():
                self._regroup()
        elif len(left) < len(self.group) or "broken" in phases:
            self._count_failure()
            self._regroup()
        elif len(phases) < len(self.group):
            return  # somebody has not heard of the group yet
        elif all(phase == "paused" for phase in phases):
            self._regroup()
        elif not self.pausing and all(phase == "running" for phase in phases) and (self._joiners() or self._leavers()):
            self.pausing = True
            for number in self.group:
                self.members[number].handle.pause.remote()

    def _joiners(self) -> list[Known]:
        room = self.spec.scale.workers[1] - len(self.group)
        waiting = [known for number, known in self.members.items() if number not in self.group]
        return [k for k in waiting if k.status.phase in ("ready", "paused", "broken") and self._may_stay(k)][:room]

    def _leavers(self) -> list[Known]:
        """Members that should go, as long as enough are left."""
        going = [self.members[n] for n in self.group if n in self.members and not self._may_stay(self.members[n])]
        staying = len(self.group) - len(going) + len(self._joiners())
        return going if staying >= self.spec.scale.workers[0] else []

    def _may_stay(self, known: Known) -> bool:
        return known.place.node not in self.draining and not self._forsaken(known)

    def _enough_at_the_start(self) -> bool:
        able = [known for known in self.members.values() if self._may_stay(known)]
        ready = [known for known in able if known.status.phase != "warming"]
        if len(ready) < self.spec.scale.workers[0]:
            self._wait_or_give_up(len(ready))
            return False
        expected = max(len(able), min(len(self.places), self.spec.scale.workers[1]))
        return len(ready) == expected or time.monotonic() - min(k.started for k in ready) > GATHER_SECONDS

    def _wait_or_give_up(self, there: int) -> None:
        waited = time.monotonic() - self.waiting_since
        pools = self.spec.scale.all_pools.values()
        each = " or ".join(", ".join(f"{amount:g} {kind}" for kind, amount in pool.resources.items()) for pool in pools)
        kinds = dict.fromkeys(kind for pool in pools for kind in pool.resources)
        nodes = node_resources(ray)
        have = ", ".join(f"{sum(node.get(kind, 0.0) for node in nodes):g} {kind}" for kind in kinds)
        fewest = self.spec.scale.workers[0]
        missing = f"{there} of at least {fewest} workers are there; each takes {each}, and the cluster has {have} in all"
        if waited > 40 and not self.told_waiting:
            self.told_waiting = True
            self._note("waiting", reason=missing)
        if waited > self.spec.fault.wait_s:
            kind = RunFailed if self.recorder.step else InputError
            resume = f"`foundray resume {self.run_folder.folder}` goes on from the last checkpoint"
            raise kind(f"after {waited:.0f} s {missing}; {resume}")

    def _count_failure(self) -> None:
        """Raises RunFailed after too many failures without a step in between."""
        self.failures = 1 if self.recorder.step > self.failed_at else self.failures + 1
        self.failed_at = self.recorder.step
        self.broken += 1
        reasons = [status.reason for status in self._group_statuses() if status.reason]
        # Those who only lost the connection say so; somebody else may know why.
        cause = min(
            reasons, key=lambda reason: "closed by peer" in reason or "Connection" in reason, default="a member was lost"
        )
        self._note("group_broken", step=self.recorder.step, reason=cause)
        self._leave_out(next((status.suspects for status in self._group_statuses() if status.suspects), ()))
        if self.failures > self.spec.fault.max_restarts:
            raise RunFailed(
                f"the run failed {self.failures} times at step {self.recorder.step}: {cause}; "
                f"`foundray resume {self.run_folder.folder}` goes on from the last checkpoint"
            )

    def _leave_out(self, suspects: tuple[int, ...]) -> None:
        """Never again use the nodes of members that compute other bits. Raises RunFailed where nobody can say who does."""
        if not suspects:
            return
        odd = [self.members[number] for rank, number in enumerate(self.group) if rank in suspects and number in self.members]
        nodes = ", ".join(sorted({known.place.node for known in odd}))
        if len(suspects) == len(self.group):
            raise RunFailed(
                f"silent corruption: the nodes {nodes} compute different bits from the same micro-batch, and no majority says "
                f"which is right; check them, then `foundray resume {self.run_folder.folder}`"
            )
        self._note("left_out", step=self.recorder.step, node=nodes, reason="it computed other bits than the others")
        for known in odd:
            self.shunned[known.place.node] = float("inf")
            self._lose(known, "silent corruption")
        # What came since the last recheck that all passed may be corrupt as well.
        every = self.spec.guard.recheck_every or 1
        self.trusted = self.recorder.step // every * every
        self.recorder.evaluated = min(self.recorder.evaluated, self.trusted)
        for place in completed(self.run_folder.checkpoints):
            if step_of(place) > self.trusted:
                with suppress(InputError):
                    place.delete_folder()
        self.steps_stored = completed_steps(self.run_folder.checkpoints)

    def _check_skipped(self) -> None:
        """Raises RunFailed after too many micro-batches that were not finite."""
        skipped = self.recorder.skipped
        if len(skipped) > self.spec.guard.max_skipped:
            plan, per_step = self.work.plan, self.spec.train.micro_batches
            named = [name for s, i in sorted(skipped) for name in plan.order().ids(plan.addresses((s - 1) * per_step + i, 1))]
            raise RunFailed(
                f"{len(skipped)} micro-batches had a loss or gradient that is not finite, and guard.max_skipped is "
                f"{self.spec.guard.max_skipped}: look at the samples {', '.join(named[:20])}"
            )

    def _regroup(self) -> None:
        """Form a group of all who answer, from the newest whole state that they hold or that is stored."""
        old, self.group, self.pausing = self.group, [], False
        try:
            held = self._halt_all(old)
            staying = [number for number in held if self._may_stay(self.members[number])]
            # One on a draining node goes on, rather than that the run stands still.
            needed = max(0, self.spec.scale.workers[0] - len(staying))
            staying += [number for number in held if number in old and number not in staying][:needed]
            self._hand_over(old, held, staying)
            if len(staying) < self.spec.scale.workers[0]:
                self.waiting_since, self.told_waiting = time.monotonic(), False
                self._note("too_few", workers=len(staying), needed=self.spec.scale.workers[0])
                return
            self._start_group(staying[: self.spec.scale.workers[1]], held)
        except RayError as error:
            # One more was lost meanwhile; those that are left try again.
            self._note("group_not_formed", reason=type(error).__name__)
            self.group = []

    def _halt_all(self, old: list[int]) -> dict[int, list[Piece]]:
        """The pieces of every member that answers, by number: those of the old group first, in rank order."""
        order = [n for n in old if n in self.members] + [n for n in self.members if n not in old]
        known = [self.members[number] for number in order if self.members[number].status.phase != "warming"]
        probes = {k.handle.watch.remote(-1): k for k in known}
        halts = {k.number: k.handle.halt.remote(HALT_SECONDS) for k in known}
        answered, _ = ray.wait(list(probes), num_returns=len(probes), timeout=PROBE_SECONDS)
        held: dict[int, list[Piece]] = {}
        for k in known:
            try:
                if any(probes[ref] is k for ref in answered):
                    status, pieces = ray.get(halts[k.number], timeout=HALT_SECONDS + 5)
                    k.status.facts.update(status.facts)
                    if status.phase != "running":
                        held[k.number] = pieces
            except RayError as error:
                self._lose(k, type(error).__name__)
        return held

    def _hand_over(self, old: list[int], held: dict[int, list[Piece]], staying: list[int]) -> None:
        """Those who go give their piece to one who stays."""
        for number in [n for n in held if n not in staying]:
            if number in old and staying:
                heir = staying[0]
                piece = ray.get(self.members[number].handle.hand_over.remote(self.members[heir].handle), timeout=60)
                if piece is not None:
                    held[heir] = [*held[heir], piece]
                self._note("member_left", member=number, node=self.members[number].place.node)

    def _start_group(self, chosen: list[int], held: dict[int, list[Piece]]) -> None:
        members = [self.members[number] for number in chosen]
        usable = {rank: [p for p in held[n] if p.step <= self.trusted] for rank, n in enumerate(chosen)}
        source = newest_whole(usable, members[0].status.facts["blocks"])
        if source is not None and source.step < max(self.steps_stored, default=0):
            source = None
        self._read_board(now=True)
        self.generation = self._begin_feeder(len(chosen))
        rendezvous = ray.get(members[0].handle.rendezvous.remote(), timeout=5) if len(chosen) > 1 else None
        mirrors = buddies([known.place.node for known in members])
        for rank, known in enumerate(members):
            mirror = mirrors[rank]
            order = Order(
                generation=self.generation,
                rank=rank,
                world=len(chosen),
                rendezvous=rendezvous,
                source=source,
                mirror=None if mirror is None else members[mirror].handle,
                recorded=self.recorder.step,
                evaluated=self.recorder.evaluated,
                failures=self.broken,
                trusted=self.trusted,
                losses=tuple(self.recorder.losses),
            )
            known.handle.take_part.remote(order)
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

    # Checkpoints

    def _complete_checkpoints(self) -> None:
        """Write the manifest of each checkpoint whose shards are all written."""
        statuses = self._group_statuses()
        for number, status in zip(self.group, statuses, strict=False):
            for generation, step, written, _ in status.written:
                if isinstance(written, str) and (number, generation, step) not in self.told:
                    self.told.add((number, generation, step))
                    self._note("checkpoint_failed", step=step, reason=written)
        for step in {step for status in statuses for _, step, _, _ in status.written}:
            found = [(w, s) for status in statuses for _, at, w, s in status.written if at == step and isinstance(w, ShardFile)]
            shards = [shard for shard, _ in found]
            if (self.generation, step) not in self.commits and sum(s.blocks for s in shards) == self._blocks():
                seconds = max(seconds for _, seconds in found)
                self.commits[self.generation, step] = self.committer.submit(self._commit, step, shards, seconds)
        for key, future in list(self.commits.items()):
            if future.done() and (error := future.exception()):
                self.commit_problem = str(error)
                if self._due("commit again", 1):
                    del self.commits[key]
                if self._due("commit problem", 30):
                    self._note("checkpoint_failed", step=key[1], reason=str(error))

    def _commit(self, step: int, shards: list[ShardFile], seconds: float) -> None:
        began = time.monotonic()
        facts = next(iter(self.members.values())).status.facts
        manifest = CheckpointManifest(
            step=step,
            fingerprint=self.spec.fingerprint(),
            optimizer=self.spec.optimizer.kind,
            parameters=facts["parameters"],
            shards=sorted(shards, key=lambda shard: shard.first_block),
        )
        commit(self.run_folder.checkpoints, manifest, self.spec.train.keep_checkpoints)
        seconds = round(seconds + time.monotonic() - began, 3)
        self._note("checkpoint", step=step, bytes=sum(s.bytes for s in shards), seconds=seconds)
        self.steps_stored = [*self.steps_stored, step]

    def _blocks(self) -> int:
        return next(int(known.status.facts["blocks"]) for known in self.members.values() if "blocks" in known.status.facts)

    def _finished(self) -> bool:
        """Whether all members are done and the last checkpoint is complete. Raises InputError where that cannot be."""
        statuses = self._group_statuses()
        if not self.group or len(statuses) < len(self.group) or any(s.phase != "finished" for s in statuses):
            self.done_since = time.monotonic()
            return False
        if self.spec.train.steps in self.steps_stored:
            return True
        if time.monotonic() - self.done_since > self.spec.fault.storage_wait_s:
            raise InputError(f"the last checkpoint could not be written: {self.commit_problem}")
        return False

    # The record

    def _note(self, name: str, **fields: Any) -> None:
        self.recorder.write([event(name, **fields)])

    def _due(self, what: str, seconds: float) -> bool:
        now = time.monotonic()
        if now < self.due.get(what, 0.0):
            return False
        self.due[what] = now + seconds
        return True


def _short(facts: dict[str, Any]) -> dict[str, Any]:
    return {name: facts[name] for name in ("device", "model_s") if name in facts}
