"""The conductor: decides, in the driver, which members compute together, and from which state they go on.

Ray Train decides where workers may be: it reserves places, elastically, and finds new ones when nodes are lost or added.
In each place there is a member, a process that outlives Ray Train's. When a group breaks, the members that are left form
the next one at once, from the newest whole state in their memories; a new member warms up beside the others' work and is
taken in between two steps, as one on a draining node is let go.
"""

from __future__ import annotations

import sys
import time
from contextlib import suppress
from typing import Any, Literal

import ray
from ray.exceptions import RayActorError, RayError

from foundray.cluster import free_resources, node_resources
from foundray.errors import InputError, RunFailed
from foundray.holder import Holder
from foundray.run import Run, event
from foundray.spec import Spec
from foundray.training.board import Place
from foundray.training.committer import Committer
from foundray.training.crew import Crew, Known
from foundray.training.flat import shard_bounds
from foundray.training.orders import Order, Status, Work
from foundray.training.places import Places
from foundray.training.record import Recorder
from foundray.training.recovery import Piece, buddies, newest_whole
from foundray.training.rollback import next_turn, passed_over, roll_back

BOARD_SECONDS = 0.2
TELL_SECONDS = 40.0
"""Without enough workers for so long, the run says what it waits for."""
TEND_SECONDS = 0.5
PROBE_SECONDS = 0.7
"""A member that does not answer for so long when its group is broken is left out of the next one."""
HALT_SECONDS = 60.0
"""Longest that a member may take to come out of a broken group: it finishes its micro-batch."""
FEEDER_SECONDS = 60.0
"""Longest that a feeder takes to start anew."""
ROLL_BACKS = 16
"""Roll-backs past loss spikes that a run may make."""
PAUSE_SECONDS = 1.0
"""Between two tellings to pause: one may come before the order to take part."""
GATHER_SECONDS = 30.0
"""At the start, how long the first members wait for others whose places are held."""


class Conductor:
    def __init__(self, spec: Spec, run: Run, work: Work, recorder: Recorder, places: Places, holder: Holder):
        self.spec, self.run_folder, self.work, self.recorder = spec, run, work, recorder
        self.ray_train, self.holder = places, holder
        self.crew = Crew(work, spec, self._note)
        self.group: list[int] = []
        """Numbers of the members that take part, in rank order."""
        self.generation = 0
        self.places: list[Place] = []
        self.pausing: Literal["", "regroup", "stop"] = ""
        """Why members were told to pause."""
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
        self.committer = Committer(spec, run.checkpoints, self._note)
        self.done_since = time.monotonic()

    def run(self) -> None:
        """Until the run is finished, or has stopped because somebody asked. Raises InputError or RunFailed."""
        self.crew.foresee(free_resources())
        self._foresee_data()
        while not self._finished():
            if self._stopped():
                self._read_board(now=True)
                kept = max(self.committer.steps, default=0)
                return self._note("stopped", step=self.recorder.step, checkpoint=kept, by=self.holder.stopping)
            self.crew.listen()
            self._read_board()
            if self._due("places", TEND_SECONDS):
                self.crew.tend(self.places, self.group)
            if statuses := self._group_statuses():
                self.committer.complete(self.generation, statuses, self.recorder.kept)
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
        self.crew.close()
        self.committer.close()

    def _read_board(self, now: bool = False) -> None:
        if now or self._due("board", BOARD_SECONDS):
            records, self.places = ray.get(self.work.board.take.remote(), timeout=60)
            self.recorder.write(records)
            self._check_skipped()

    # Forming groups

    def _group_statuses(self) -> list[Status]:
        """Of the members of the present group that are left."""
        found = [self.crew.members[number].status for number in self.group if number in self.crew.members]
        return [status for status in found if status.generation == self.generation]

    def _form_group_if_due(self) -> None:
        phases = [status.phase for status in self._group_statuses()]
        left = [number for number in self.group if number in self.crew.members]
        if not self.group:
            if self._enough_at_the_start():
                self._regroup()
        elif spike := max((status.spike for status in self._group_statuses()), default=0):
            self._roll_back(spike)
            self._regroup()
        elif len(left) < len(self.group) or "broken" in phases:
            self._count_failure()
            self._regroup()
        elif len(phases) < len(self.group):
            return  # somebody has not heard of the group yet
        elif all(phase == "paused" for phase in phases):
            if self._stopped_at() is None:  # else its checkpoint is yet to be completed
                self._regroup()
        elif all(phase == "running" for phase in phases):
            self._pause_if_due()

    def _pause_if_due(self) -> None:
        if self.holder.stopping:
            self.pausing = "stop"
        elif self._joiners() or self._leavers():
            self.pausing = "regroup"
        if self.pausing and self._due("pause", PAUSE_SECONDS):
            for number in self.group:
                self.crew.members[number].handle.pause.remote(self.generation, self.pausing == "stop")

    def _joiners(self) -> list[Known]:
        room = self.spec.scale.workers[1] - len(self.group)
        waiting = [known for number, known in self.crew.members.items() if number not in self.group]
        return [k for k in waiting if k.status.phase in ("ready", "paused", "broken") and self.crew.may_stay(k)][:room]

    def _leavers(self) -> list[Known]:
        """Members that should go, as long as enough are left."""
        going = [
            self.crew.members[n] for n in self.group if n in self.crew.members and not self.crew.may_stay(self.crew.members[n])
        ]
        staying = len(self.group) - len(going) + len(self._joiners())
        return going if staying >= self.spec.scale.workers[0] else []

    def _enough_at_the_start(self) -> bool:
        able = [known for known in self.crew.members.values() if self.crew.may_stay(known)]
        ready = self._ready()
        if len(ready) < self.spec.scale.workers[0]:
            self._wait_or_give_up(len(ready))
            return False
        expected = max(len(able) + self.crew.awaited(), min(len(self.places), self.spec.scale.workers[1]))
        return len(ready) == expected or time.monotonic() - min(k.placed or 0.0 for k in ready) > GATHER_SECONDS

    def _ready(self) -> list[Known]:
        return [k for k in self.crew.members.values() if self.crew.may_stay(k) and k.status.phase != "warming"]

    def _wait_or_give_up(self, there: int) -> None:
        waited = time.monotonic() - self.waiting_since
        tell, give_up = waited > TELL_SECONDS and not self.told_waiting, waited > self.spec.fault.wait_s
        if not (tell or give_up):
            return
        pools = self.spec.scale.all_pools.values()
        each = " or ".join(", ".join(f"{amount:g} {kind}" for kind, amount in pool.resources.items()) for pool in pools)
        kinds = dict.fromkeys(kind for pool in pools for kind in pool.resources)
        nodes = node_resources(ray)
        have = ", ".join(f"{sum(node.get(kind, 0.0) for node in nodes):g} {kind}" for kind in kinds)
        fewest = self.spec.scale.workers[0]
        missing = f"{there} of at least {fewest} workers are there; each takes {each}, and the cluster has {have} in all"
        if tell:
            self.told_waiting = True
            self._note("waiting", reason=missing)
        if give_up:
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
        odd = [
            self.crew.members[number]
            for rank, number in enumerate(self.group)
            if rank in suspects and number in self.crew.members
        ]
        nodes = ", ".join(sorted({known.place.node for known in odd}))
        if len(suspects) == len(self.group):
            raise RunFailed(
                f"silent corruption: the nodes {nodes} compute different bits from the same micro-batch, and no majority says "
                f"which is right; check them, then `foundray resume {self.run_folder.folder}`"
            )
        self._note("left_out", step=self.recorder.step, node=nodes, reason="it computed other bits than the others")
        for known in odd:
            self.crew.shun(known.place.node)
            self.crew.lose(known, "silent corruption")
        # What came since the last recheck that all passed may be corrupt as well.
        every = self.spec.guard.recheck_every or 1
        self._trust(self.recorder.step // every * every)

    def _trust(self, step: int) -> None:
        """Go on from a state of at most this step."""
        self.trusted = step
        self.recorder.evaluated = min(self.recorder.evaluated, step)
        self.committer.drop_after(step)

    def _roll_back(self, spike: int) -> None:
        """Go back to before a loss spike, and on with later data. Raises RunFailed after too many of these."""
        before = self.recorder.roll_backs
        if len(before) == ROLL_BACKS:
            raise RunFailed(
                f"the loss of step {spike} is a spike, and the run has rolled back {ROLL_BACKS} times: it diverges; "
                "try a lower optimizer.lr, or a higher guard.spike"
            )
        turn = roll_back(before, spike, self.spec.guard.roll_back or 1)
        self._note("rolled_back", step=spike, **turn.facts())
        self.recorder.settle()  # or a resumed run might not know of it, and use the data again
        self._trust(turn.to)

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
        old, self.group, self.pausing = self.group, [], ""
        try:
            held = self._halt_all(old)
            staying = [number for number in held if self.crew.may_stay(self.crew.members[number])]
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
        order = [n for n in old if n in self.crew.members] + [n for n in self.crew.members if n not in old]
        known = [self.crew.members[number] for number in order if self.crew.members[number].status.phase != "warming"]
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
                self.crew.lose(k, type(error).__name__)
        return held

    def _hand_over(self, old: list[int], held: dict[int, list[Piece]], staying: list[int]) -> None:
        """Those who go give their piece to one who stays."""
        for number in [n for n in held if n not in staying]:
            if number in old and staying:
                heir = staying[0]
                piece = ray.get(self.crew.members[number].handle.hand_over.remote(self.crew.members[heir].handle), timeout=60)
                if piece is not None:
                    held[heir] = [*held[heir], piece]
                self._note("member_left", member=number, node=self.crew.members[number].place.node)

    def _start_group(self, chosen: list[int], held: dict[int, list[Piece]]) -> None:
        members = [self.crew.members[number] for number in chosen]
        usable = {rank: [p for p in held[n] if p.step <= self.trusted] for rank, n in enumerate(chosen)}
        source = newest_whole(usable, members[0].status.facts["blocks"])
        if source is not None and source.step < max(self.committer.steps, default=0):
            source = None
        self._read_board(now=True)
        self.generation = self._begin_feeder(len(chosen))
        rendezvous = ray.get(members[0].handle.rendezvous.remote(), timeout=5) if len(chosen) > 1 else None
        mirrors = buddies([known.place.node for known in members])
        peak_flops = self.crew.peak_flops(members)
        bounds = shard_bounds(members[0].status.facts["blocks"], self.crew.room(members))
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
                recorded=self.recorder.step,
                evaluated=self.recorder.evaluated,
                failures=self.broken,
                trusted=self.trusted,
                losses=tuple(self.recorder.losses) if self.spec.guard.spike else (),
                roll_backs=self.recorder.roll_backs,
                peak_flops=peak_flops,
            )
            known.handle.take_part.remote(order)
            known.status = Status("running", -1, self.generation, facts=known.status.facts)
        self.group, self.trusted = chosen, sys.maxsize

    def _foresee_data(self) -> None:
        """Let the data be read that the first group will ask for, unless its checkpoint turns out to be damaged."""
        done, turns, per_step = max(self.committer.steps, default=0), self.recorder.roll_backs, self.spec.train.micro_batches
        ahead, until = passed_over(turns, done), next_turn(turns, done) or self.spec.train.steps
        if done < until:
            self.work.feeder.foresee.remote(self.work.plan, per_step, done + ahead, (until + ahead) * per_step)

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

    def _finished(self) -> bool:
        """Whether all members are done and the last checkpoint is complete. Raises InputError where that cannot be."""
        statuses = self._group_statuses()
        if not self.group or len(statuses) < len(self.group) or any(s.phase != "finished" for s in statuses):
            if self._stopped_at() is None:
                self.done_since = time.monotonic()
            return False
        return self._kept(self.spec.train.steps)

    def _stopped(self) -> bool:
        """Whether nobody computes because somebody asked for it, and the last step's checkpoint is complete.

        Where too few are there to go on, it is that of an earlier step. Raises InputError where it cannot be written.
        """
        if not self.holder.stopping:
            return False
        if not self.group:
            return len(self._ready()) < self.spec.scale.workers[0]
        return (step := self._stopped_at()) is not None and self._kept(step)

    def _stopped_at(self) -> int | None:
        """The step at which all have paused for good, having written their state."""
        statuses = self._group_statuses()
        if self.pausing != "stop" or len(statuses) < len(self.group) or any(s.phase != "paused" for s in statuses):
            return None
        done = statuses[0].done
        return done if any(step == done for _, step, _, _ in statuses[0].written) else None

    def _kept(self, step: int) -> bool:
        """Whether the checkpoint that a command ends with is complete. Raises InputError after too long."""
        if step in self.committer.steps:
            return True
        if time.monotonic() - self.done_since > self.spec.fault.storage_wait_s:
            raise InputError(f"the last checkpoint could not be written: {self.committer.problem}")
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
