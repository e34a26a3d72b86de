"""The conductor: decides, in the driver, which members compute together, and from which state they go on.

Ray Train decides where workers may be: it reserves places, elastically, and finds new ones when nodes are lost or added.
In each place there is a member, a process that outlives Ray Train's. When a group breaks, the members that are left form
the next one at once, from the newest whole state in their memories; a new member warms up beside the others' work and is
taken in between two steps, as one on a draining node is let go.
"""

from __future__ import annotations

import time
from contextlib import suppress
from typing import Any, Literal

import ray
from ray.exceptions import RayError

from foundray.cluster.connect import node_resources
from foundray.errors import FoundrayError, InputError, RunFailed
from foundray.runs.lock import RunLock
from foundray.runs.run import Run, event
from foundray.spec import Spec
from foundray.training.elastic.committer import Committer
from foundray.training.elastic.ending import keep_what_is_done
from foundray.training.elastic.failures import Failures, hung_up
from foundray.training.elastic.messages import Work
from foundray.training.elastic.prestart import Prestarted
from foundray.training.elastic.rendezvous import Rendezvous
from foundray.training.elastic.worker_pool import CALM_SECONDS, LISTEN_SECONDS, KnownWorker, WorkerPool
from foundray.training.rollback import roll_back
from foundray.training.slots.board import Slot
from foundray.training.slots.slots import Slots
from foundray.training.telemetry.recorder import Recorder

TELL_SECONDS = 40.0
"""Without enough workers for so long, the run says what it waits for."""
ROLL_BACKS = 16
"""Roll-backs past loss spikes that a run may make."""
PAUSE_SECONDS = 1.0
"""Between two tellings to pause: one may come before the order to take part."""
GATHER_SECONDS = 30.0
"""At the start, how long the first members wait for others whose places are held."""


class Coordinator:
    def __init__(
        self,
        spec: Spec,
        run: Run,
        work: Work,
        recorder: Recorder,
        places: Slots,
        holder: RunLock,
        ahead: Prestarted | None = None,
    ):
        self.spec, self.run_folder, self.work, self.recorder = spec, run, work, recorder
        self.ray_train, self.holder = places, holder
        self.worker_pool = WorkerPool(work, spec, self._note, ahead)
        self.places: list[Slot] = []
        self.pausing: Literal["", "regroup", "stop"] = ""
        """Why members were told to pause."""
        self.waiting_since = time.monotonic()
        self.told_waiting = False
        self.failures = Failures(spec.fault, f"foundray resume {run.folder}")
        self.due: dict[str, float] = {}
        self.beat = LISTEN_SECONDS
        self.committer = Committer(spec, run.checkpoints, self._note, lambda: recorder.val_losses)
        self.rendezvous = Rendezvous(spec, work, self.worker_pool, recorder, self.committer, self._note)
        self.done_since = time.monotonic()

    def run(self) -> None:
        """Until the run is finished, or has stopped because somebody asked. Raises InputError or RunFailed."""
        try:
            self._conduct()
        except FoundrayError:
            keep_what_is_done(
                self.worker_pool, self.rendezvous, self.committer, self.recorder, lambda: self._read_board(now=True)
            )
            raise

    def _conduct(self) -> None:
        self.rendezvous.prefetch()
        while not self._finished():
            if self._stopped():
                self._read_board(now=True)
                kept = max(self.committer.steps, default=0)
                return self._note("stopped", step=self.recorder.reached, checkpoint=kept, by=self.holder.stopping)
            self.beat = CALM_SECONDS if self.rendezvous.all_are("running") and not self.pausing else LISTEN_SECONDS
            self.worker_pool.listen(self.beat)
            self._read_board()
            if self._due("places", 2 * self.beat):
                self.worker_pool.tend(self.places, self.rendezvous.group)
                for pool, reason in self.ray_train.tend(self.places, bool(self.rendezvous.group)):
                    self._note("places_lost", pool=pool, reason=reason)
            if statuses := self.rendezvous.statuses():
                self.committer.complete(self.rendezvous.generation, statuses, self.recorder.kept)
            self._form_group_if_due()
            if self.holder.taken:
                raise RunFailed(f"another command has taken over the run {self.run_folder.folder}")
            somebody = self.rendezvous.group or any(map(self.worker_pool.may_stay, self.worker_pool.members.values()))
            if not somebody and (problem := self.ray_train.problem()):
                raise RunFailed(f"Ray Train gave up: {problem}")
        sha = next(s.facts["weights_sha256"] for s in self.rendezvous.statuses() if s.facts.get("weights_sha256"))
        self._read_board(now=True)
        self.recorder.write([event("finished", step=self.spec.train.steps, weights_sha256=sha)])

    def close(self) -> None:
        """Let the members and their places go."""
        with suppress(RayError):
            self.recorder.write(ray.get(self.work.board.take.remote(), timeout=5)[0])
            ray.get(self.work.board.close.remote(), timeout=5)
        self.worker_pool.close()
        self.committer.close()

    def _read_board(self, now: bool = False) -> None:
        if now or self._due("board", self.beat):
            records, self.places = ray.get(self.work.board.take.remote(), timeout=60)
            self.recorder.write(records)
            self.ray_train.take_note(records)
            self._check_skipped()

    # Forming groups

    def _form_group_if_due(self) -> None:
        phases = [status.phase for status in self.rendezvous.statuses()]
        left = [number for number in self.rendezvous.group if number in self.worker_pool.members]
        if not self.rendezvous.group:
            if self._enough_at_the_start():
                self._regroup()
        elif spike := max((status.spike for status in self.rendezvous.statuses()), default=0):
            self._roll_back(spike)
            self._regroup()
        elif len(left) < len(self.rendezvous.group) or "broken" in phases:
            self._count_failure()
            self._regroup()
        elif len(phases) < len(self.rendezvous.group):
            return  # somebody has not heard of the group yet
        elif all(phase == "paused" for phase in phases):
            if self._stopped_at() is None:  # else its checkpoint is yet to be completed
                self._regroup()
        elif all(phase == "running" for phase in phases):
            self._pause_if_due()

    def _pause_if_due(self) -> None:
        if self.holder.stopping:
            self.pausing = "stop"
        elif self.rendezvous.joiners() or self.rendezvous.leavers():
            self.pausing = "regroup"
        if self.pausing and self._due("pause", PAUSE_SECONDS):
            for number in self.rendezvous.group:
                self.worker_pool.members[number].handle.pause.remote(self.rendezvous.generation, self.pausing == "stop")

    def _enough_at_the_start(self) -> bool:
        able = [known for known in self.worker_pool.members.values() if self.worker_pool.may_stay(known)]
        ready = self._ready()
        if len(ready) < self.spec.scale.world[0]:
            self._wait_or_give_up(len(ready))
            return False
        expected = max(len(able) + self.worker_pool.awaited(), min(len(self.places), self.spec.scale.world[1]))
        return len(ready) == expected or time.monotonic() - min(k.placed or 0.0 for k in ready) > GATHER_SECONDS

    def _ready(self) -> list[KnownWorker]:
        return [k for k in self.worker_pool.members.values() if self.worker_pool.may_stay(k) and k.status.phase != "warming"]

    def _wait_or_give_up(self, there: int) -> None:
        waited = time.monotonic() - self.waiting_since
        tell, give_up = waited > TELL_SECONDS and not self.told_waiting, waited > self.spec.fault.wait_s
        if not (tell or give_up):
            return
        pools = self.spec.scale.all_pools.values()
        each = " or ".join(", ".join(f"{amount:g} {kind}" for kind, amount in pool.resources.items()) for pool in pools)
        kinds = dict.fromkeys(kind for pool in pools for kind in pool.resources)
        nodes = node_resources()
        have = ", ".join(f"{sum(node.get(kind, 0.0) for node in nodes):g} {kind}" for kind in kinds)
        fewest = self.spec.scale.world[0]
        missing = f"{there} of at least {fewest} workers are there; each takes {each}, and the cluster has {have} in all"
        if tell:
            self.told_waiting = True
            self._note("waiting", reason=missing)
        if give_up:
            kind = RunFailed if self.recorder.step else InputError
            resume = f"`foundray resume {self.run_folder.folder}` goes on from the last checkpoint"
            raise kind(f"after {waited:.0f} s {missing}; {resume}")

    def _count_failure(self) -> None:
        """Raises RunFailed after too many failures without a step in between, or if storage has been away for too long."""
        statuses = self.rendezvous.statuses()
        # Those who only lost the connection say so; somebody else may know why.
        cause = min((status.reason for status in statuses if status.reason), key=hung_up, default="a member was lost")
        self._note("group_broken", step=self.recorder.step, reason=cause)
        self._leave_out(next((status.suspects for status in statuses if status.suspects), ()))
        time.sleep(self.failures.add(self.recorder.step, cause, any(status.away for status in statuses)))

    def _leave_out(self, suspects: tuple[int, ...]) -> None:
        """Never again use the nodes of members that compute other bits. Raises RunFailed where nobody can say who does."""
        if not suspects:
            return
        odd = [
            self.worker_pool.members[number]
            for rank, number in enumerate(self.rendezvous.group)
            if rank in suspects and number in self.worker_pool.members
        ]
        nodes = ", ".join(sorted({known.node for known in odd}))
        if len(suspects) == len(self.rendezvous.group):
            raise RunFailed(
                f"silent corruption: the nodes {nodes} compute different bits from the same micro-batch, and no majority says "
                f"which is right; check them, then `foundray resume {self.run_folder.folder}`"
            )
        self._note("left_out", step=self.recorder.step, node=nodes, reason="it computed other bits than the others")
        for known in odd:
            self.worker_pool.cordon(known.place.node)
            self.worker_pool.lose(known, "silent corruption")
        # What came since the last recheck that all passed may be corrupt as well.
        every = self.spec.guard.recheck_every or 1
        self._trust(self.recorder.step // every * every)

    def _trust(self, step: int) -> None:
        """Go on from a state of at most this step."""
        self.rendezvous.trusted = step
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
        old, self.rendezvous.group, self.pausing = self.rendezvous.group, [], ""
        try:
            held = self.rendezvous.halt(old)
            staying = self.rendezvous.choose(old, held)
            if len(staying) < self.spec.scale.world[0]:
                self.waiting_since, self.told_waiting = time.monotonic(), False
                self._note("too_few", workers=len(staying), needed=self.spec.scale.world[0])
                return
            self._read_board(now=True)
            self.rendezvous.start(staying[: self.spec.scale.world[1]], held, self.failures.total)
        except RayError as error:
            # One more was lost meanwhile; those that are left try again.
            self._note("group_not_formed", reason=type(error).__name__)
            self.rendezvous.group = []

    def _finished(self) -> bool:
        """Whether all members are done and the last checkpoint is complete. Raises RunFailed where that cannot be."""
        if not self.rendezvous.all_are("finished"):
            if self._stopped_at() is None:
                self.done_since = time.monotonic()
            return False
        return self._kept(self.spec.train.steps)

    def _stopped(self) -> bool:
        """Whether nobody computes because somebody asked for it, and the last step's checkpoint is complete.

        Where too few are there to go on, it is that of an earlier step. Raises RunFailed where it cannot be written.
        """
        if not self.holder.stopping:
            return False
        if not self.rendezvous.group:
            return len(self._ready()) < self.spec.scale.world[0]
        return (step := self._stopped_at()) is not None and self._kept(step)

    def _stopped_at(self) -> int | None:
        """The step at which all have paused for good, having written their state."""
        if self.pausing != "stop" or not self.rendezvous.all_are("paused"):
            return None
        statuses = self.rendezvous.statuses()
        done = statuses[0].done
        return done if any(part.step == done for part in statuses[0].written) else None

    def _kept(self, step: int) -> bool:
        """Whether the checkpoint that a command ends with is complete. Raises RunFailed after too long."""
        if step in self.committer.steps:
            return True
        if time.monotonic() - self.done_since > self.spec.fault.storage_wait_s:
            raise RunFailed(
                f"the last checkpoint could not be written: {self.committer.problem}; make room, or wait for the storage, then "
                f"`foundray resume {self.run_folder.folder}`"
            )
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
