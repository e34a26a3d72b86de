"""Coordinator: decides, in the driver, which workers compute together and from which state.

Ray Train decides where workers may be: it reserves slots, elastically, and finds new ones when nodes are lost or added. Each
slot has a worker, a process that outlives Ray Train's. When a group breaks, the remaining workers form the next one at once,
from the newest complete state in their memories. A new worker warms up while the others compute and joins between two
steps; a worker on a draining node leaves in the same way.
"""

from __future__ import annotations

import time
from contextlib import suppress
from typing import Any, Literal

import ray
from ray.exceptions import RayError

from foundray.cluster.connect import node_resources
from foundray.errors import FoundrayError, InputError, RunFailed
from foundray.runs.lineage import cut
from foundray.runs.lock import RunLock
from foundray.runs.run import Run, event
from foundray.spec import Spec
from foundray.training.elastic.committer import Committer
from foundray.training.elastic.ending import keep_what_is_done
from foundray.training.elastic.failures import Failures, lost_connection
from foundray.training.elastic.messages import Work
from foundray.training.elastic.prestart import Prestarted
from foundray.training.elastic.rendezvous import Rendezvous
from foundray.training.elastic.worker_pool import CALM_SECONDS, LISTEN_SECONDS, KnownWorker, WorkerPool
from foundray.training.rollback import roll_back, undone_to
from foundray.training.slots.board import Slot
from foundray.training.slots.slots import Slots
from foundray.training.telemetry.recorder import Recorder

WAITING_REPORT_SECONDS = 40.0
"""Time without enough workers after which the run reports what it waits for."""
MAX_ROLL_BACKS = 16
"""Maximum roll-backs past loss spikes in a run."""
PAUSE_SECONDS = 1.0
"""Interval between two requests to pause: one may arrive before the order to join."""
GATHER_SECONDS = 30.0
"""Time that the first workers wait at the start for others whose slots are held."""


class Coordinator:
    def __init__(
        self,
        spec: Spec,
        run: Run,
        work: Work,
        recorder: Recorder,
        slots: Slots,
        run_lock: RunLock,
        prestarted: Prestarted | None = None,
    ):
        self.spec, self.run_folder, self.work, self.recorder = spec, run, work, recorder
        self.ray_train, self.run_lock = slots, run_lock
        self.worker_pool = WorkerPool(work, spec, self._note, prestarted)
        self.slots: list[Slot] = []
        self.pausing: Literal["", "regroup", "stop"] = ""
        """Why workers were asked to pause."""
        self.waiting_since = time.monotonic()
        self.waiting_reported = False
        self.failures = Failures(spec.fault, f"foundray resume {run.folder}")
        self.next_due: dict[str, float] = {}
        self.poll_s = LISTEN_SECONDS
        self.committer = Committer(spec, run.checkpoints, self._note, lambda: recorder.val_losses, recorder.lineage)
        self.rendezvous = Rendezvous(spec, work, self.worker_pool, recorder, self.committer, self._note)
        self.done_since = time.monotonic()

    def run(self) -> None:
        """Run until the run is finished, or stopped on request. Raises InputError or RunFailed."""
        try:
            self._coordinate()
        except FoundrayError:
            keep_what_is_done(
                self.worker_pool, self.rendezvous, self.committer, self.recorder, lambda: self._read_board(now=True)
            )
            raise

    def _coordinate(self) -> None:
        self.rendezvous.prefetch()
        while not self._finished():
            # A requested stop ends the command once its checkpoint is complete.
            if self._stopped():
                self._read_board(now=True)
                last_checkpoint = max(self.committer.steps, default=0)
                return self._note("stopped", step=self.recorder.reached, checkpoint=last_checkpoint, by=self.run_lock.stopping)
            # Take news from the workers, then from the board; poll less often while all compute.
            self.poll_s = CALM_SECONDS if self.rendezvous.all_are("running") and not self.pausing else LISTEN_SECONDS
            self.worker_pool.listen(self.poll_s)
            self._read_board()
            # Keep one worker per slot, and Ray Train reserving slots.
            if self._is_due("slots", 2 * self.poll_s):
                self.worker_pool.reconcile(self.slots, self.rendezvous.group)
                for pool, reason in self.ray_train.poll(self.slots, bool(self.rendezvous.group)):
                    self._note("places_lost", pool=pool, reason=reason)
            # Complete checkpoints, and change the group if necessary.
            if statuses := self.rendezvous.statuses():
                self.committer.complete(self.rendezvous.generation, statuses, self.recorder.stored_step)
            self._form_group_if_due()
            # Give up if the run belongs to another command, or if no slots can be had while nobody computes.
            if self.run_lock.taken:
                raise RunFailed(f"another command has taken over the run {self.run_folder.folder}")
            active = self.rendezvous.group or any(map(self.worker_pool.may_stay, self.worker_pool.workers.values()))
            if not active and (problem := self.ray_train.problem()):
                raise RunFailed(f"Ray Train gave up: {problem}")
        sha = next(s.facts["weights_sha256"] for s in self.rendezvous.statuses() if s.facts.get("weights_sha256"))
        self._read_board(now=True)
        self.recorder.write([event("finished", step=self.spec.train.steps, weights_sha256=sha)])

    def close(self) -> None:
        """Release the workers and their slots."""
        with suppress(RayError):
            self.recorder.write(ray.get(self.work.board.take.remote(), timeout=5)[0])
            ray.get(self.work.board.close.remote(), timeout=5)
        self.worker_pool.close()
        self.committer.close()

    def _read_board(self, now: bool = False) -> None:
        if now or self._is_due("board", self.poll_s):
            records, self.slots = ray.get(self.work.board.take.remote(), timeout=60)
            self.recorder.write(records)
            self.ray_train.note_requests(records)
            self._check_skipped()

    # Forming groups

    def _form_group_if_due(self) -> None:
        """Start, roll back, replace or pause the group, as its workers' phases require."""
        phases = [status.phase for status in self.rendezvous.statuses()]
        remaining = [number for number in self.rendezvous.group if number in self.worker_pool.workers]
        if not self.rendezvous.group:
            if self._enough_at_the_start():
                self._regroup()
        elif spike := max((status.spike for status in self.rendezvous.statuses()), default=0):
            self._roll_back(spike)
            self._regroup()
        elif len(remaining) < len(self.rendezvous.group) or "broken" in phases:
            self._count_failure()
            self._regroup()
        elif len(phases) < len(self.rendezvous.group):
            return  # some worker has not received its order yet
        elif all(phase == "paused" for phase in phases):
            if self._stopped_at() is None:  # otherwise its checkpoint is still to be completed
                self._regroup()
        elif all(phase == "running" for phase in phases):
            self._pause_if_due()

    def _pause_if_due(self) -> None:
        if self.run_lock.stopping:
            self.pausing = "stop"
        elif self.rendezvous.joiners() or self.rendezvous.leavers():
            self.pausing = "regroup"
        if self.pausing and self._is_due("pause", PAUSE_SECONDS):
            for number in self.rendezvous.group:
                self.worker_pool.workers[number].handle.pause.remote(self.rendezvous.generation, self.pausing == "stop")

    def _enough_at_the_start(self) -> bool:
        eligible = [worker for worker in self.worker_pool.workers.values() if self.worker_pool.may_stay(worker)]
        ready = self._ready()
        if len(ready) < self.spec.scale.world[0]:
            self._wait_or_give_up(len(ready))
            return False
        expected = max(len(eligible) + self.worker_pool.expected_workers(), min(len(self.slots), self.spec.scale.world[1]))
        return len(ready) == expected or time.monotonic() - min(k.slot_held_since or 0.0 for k in ready) > GATHER_SECONDS

    def _ready(self) -> list[KnownWorker]:
        return [k for k in self.worker_pool.workers.values() if self.worker_pool.may_stay(k) and k.status.phase != "warming"]

    def _wait_or_give_up(self, ready: int) -> None:
        waited = time.monotonic() - self.waiting_since
        report, give_up = waited > WAITING_REPORT_SECONDS and not self.waiting_reported, waited > self.spec.fault.wait_s
        if not (report or give_up):
            return
        # Compare what a worker needs with what the cluster has.
        pools = self.spec.scale.all_pools.values()
        each = " or ".join(", ".join(f"{amount:g} {kind}" for kind, amount in pool.resources.items()) for pool in pools)
        kinds = dict.fromkeys(kind for pool in pools for kind in pool.resources)
        nodes = node_resources()
        have = ", ".join(f"{sum(node.get(kind, 0.0) for node in nodes):g} {kind}" for kind in kinds)
        fewest = self.spec.scale.world[0]
        missing = f"{ready} of at least {fewest} workers are ready; each takes {each}, and the cluster has {have} in all"
        if report:
            self.waiting_reported = True
            self._note("waiting", reason=missing)
        if give_up:
            kind = RunFailed if self.recorder.step else InputError
            resume = f"`foundray resume {self.run_folder.folder}` continues from the last checkpoint"
            raise kind(f"after {waited:.0f} s {missing}; {resume}")

    def _count_failure(self) -> None:
        """Count a broken group. Raises RunFailed after too many without a step in between, or if storage is away too long."""
        statuses = self.rendezvous.statuses()
        # Workers that only lost a connection say so; another may know the cause.
        cause = min((status.reason for status in statuses if status.reason), key=lost_connection, default="a worker was lost")
        self._note("group_broken", step=self.recorder.step, reason=cause)
        self._cordon(next((status.suspects for status in statuses if status.suspects), ()))
        time.sleep(self.failures.add(self.recorder.step, cause, any(status.away for status in statuses)))

    def _cordon(self, suspects: tuple[int, ...]) -> None:
        """Cordon the nodes of workers that compute different bits. Raises RunFailed if no majority shows which are right."""
        if not suspects:
            return
        suspected = [
            self.worker_pool.workers[number]
            for rank, number in enumerate(self.rendezvous.group)
            if rank in suspects and number in self.worker_pool.workers
        ]
        nodes = ", ".join(sorted({worker.node for worker in suspected}))
        if len(suspects) == len(self.rendezvous.group):
            raise RunFailed(
                f"silent corruption: the nodes {nodes} compute different bits from the same micro-batch, and no majority says "
                f"which is right; check them, then `foundray resume {self.run_folder.folder}`"
            )
        # States since the last recheck that all passed may be corrupt as well.
        every = self.spec.guard.recheck_every or 1
        trusted = self.recorder.step // every * every
        reason = "it computed different bits from the others"
        to = undone_to(self.recorder.roll_backs, trusted)
        self._cut("left_out", to, step=self.recorder.step, node=nodes, reason=reason, trusted=trusted)
        for worker in suspected:
            self.worker_pool.cordon(worker.slot.node)
            self.worker_pool.lose(worker, "silent corruption")

    def _cut(self, kind: str, to: int, **fields: Any) -> None:
        """Undo all states after `to`, and the evaluations and checkpoints made from them."""
        made = cut(self.recorder.lineage, kind, to, fields["step"])
        self._note(kind, to=to, cut=made.id, **fields)
        self.recorder.settle()  # otherwise a resumed run might not know of it, and use what is undone
        self.recorder.evaluated = min(self.recorder.evaluated, to)
        self.committer.follow(self.recorder.lineage)

    def _roll_back(self, spike: int) -> None:
        """Roll back to before a loss spike and continue with later data. Raises RunFailed after too many roll-backs."""
        before = self.recorder.roll_backs
        if len(before) == MAX_ROLL_BACKS:
            raise RunFailed(
                f"the loss of step {spike} is a spike, and the run has rolled back {MAX_ROLL_BACKS} times: it diverges; "
                "try a lower optimizer.lr, or a higher guard.spike"
            )
        rollback = roll_back(before, spike, self.spec.guard.roll_back or 1)
        self._cut("rolled_back", step=spike, **rollback.facts())

    def _check_skipped(self) -> None:
        """Check the micro-batches left out. Raises RunFailed after too many that were not finite."""
        skipped = self.recorder.skipped
        if len(skipped) > self.spec.guard.max_skipped:
            plan, per_step = self.work.plan, self.spec.train.micro_batches
            sample_ids = [
                name for s, i in sorted(skipped) for name in plan.order().ids(plan.addresses((s - 1) * per_step + i, 1))
            ]
            raise RunFailed(
                f"{len(skipped)} micro-batches had a loss or gradient that is not finite, and guard.max_skipped is "
                f"{self.spec.guard.max_skipped}: look at the samples {', '.join(sample_ids[:20])}"
            )

    def _regroup(self) -> None:
        """Form a group of all workers that answer, from the newest complete state that they hold or that is stored."""
        old, self.rendezvous.group, self.pausing = self.rendezvous.group, [], ""
        try:
            # Stop what is under way, and choose the workers of the next group.
            held = self.rendezvous.halt(old)
            staying = self.rendezvous.choose(old, held)
            if len(staying) < self.spec.scale.world[0]:
                self.waiting_since, self.waiting_reported = time.monotonic(), False
                self._note("too_few", workers=len(staying), needed=self.spec.scale.world[0])
                return
            self._read_board(now=True)
            # The order includes the last recorded step, so take the last records first.
            self.rendezvous.start(staying[: self.spec.scale.world[1]], held, self.failures.total)
        except RayError as error:
            # Another worker was lost meanwhile; the remaining ones try again.
            self._note("group_not_formed", reason=type(error).__name__)
            self.rendezvous.group = []

    def _finished(self) -> bool:
        """Tell whether all workers are done and the last checkpoint is complete. Raises RunFailed if it cannot be written."""
        if not self.rendezvous.all_are("finished"):
            if self._stopped_at() is None:
                self.done_since = time.monotonic()
            return False
        return self._stored(self.spec.train.steps)

    def _stopped(self) -> bool:
        """Tell whether the group stopped on request and the checkpoint of its last step is complete.

        If too few workers are left to continue, an earlier step's checkpoint counts. Raises RunFailed if it cannot be written.
        """
        if not self.run_lock.stopping:
            return False
        if not self.rendezvous.group:
            return len(self._ready()) < self.spec.scale.world[0]
        return (step := self._stopped_at()) is not None and self._stored(step)

    def _stopped_at(self) -> int | None:
        """Return the step at which all workers paused for good, with their state written."""
        if self.pausing != "stop" or not self.rendezvous.all_are("paused"):
            return None
        statuses = self.rendezvous.statuses()
        done = statuses[0].done
        return done if any(part.step == done for part in statuses[0].written) else None

    def _stored(self, step: int) -> bool:
        """Tell whether the checkpoint a command ends with is complete. Raises RunFailed after too long."""
        if step in self.committer.steps:
            return True
        if time.monotonic() - self.done_since > self.spec.fault.storage_wait_s:
            raise RunFailed(
                f"the last checkpoint could not be written: {self.committer.problem}; make room, or wait for the storage, then "
                f"`foundray resume {self.run_folder.folder}`"
            )
        return False

    # Events and timing

    def _note(self, name: str, **fields: Any) -> None:
        self.recorder.write([event(name, **fields)])

    def _is_due(self, what: str, seconds: float) -> bool:
        now = time.monotonic()
        if now < self.next_due.get(what, 0.0):
            return False
        self.next_due[what] = now + seconds
        return True
