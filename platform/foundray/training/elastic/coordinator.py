"""Coordinator: the shell around the protocol, in the driver. It brings events, and does what the protocol decides.

Ray Train decides where workers may be: it reserves slots, elastically, and finds new ones when nodes are lost or added. Each
slot has a worker, a process that outlives Ray Train's. Who computes together, and from which state, is `protocol`'s decision.
"""

from __future__ import annotations

import time
from collections import Counter
from contextlib import suppress
from typing import Any

import ray
from ray.exceptions import RayError

from foundray.cluster.connect import draining_nodes, free_resources, node_resources, whole_nodes
from foundray.errors import FoundrayError, InputError, RunFailed
from foundray.runs.checkpoints import MANIFEST, Checkpoint, completed, place, state_of
from foundray.runs.lock import RunLock
from foundray.runs.run import Run, event
from foundray.spec import Spec
from foundray.storage import sha256
from foundray.training.elastic.committer import Committer
from foundray.training.elastic.cuts import CutReader
from foundray.training.elastic.ending import keep_what_is_done
from foundray.training.elastic.joining import Opening, orders
from foundray.training.elastic.messages import HARDWARE_FIELDS, Work
from foundray.training.elastic.prestart import Prestarted, certain_slots, slots_on_new_nodes
from foundray.training.elastic.workers import Workers
from foundray.training.protocol import messages as m
from foundray.training.protocol.messages import Decision, Event
from foundray.training.protocol.protocol import Protocol
from foundray.training.protocol.stages import History, Stage
from foundray.training.rollback import next_turn, passed_over, undone_to
from foundray.training.slots.slot import Slot
from foundray.training.slots.slots import Slots
from foundray.training.telemetry.recorder import Recorder

LISTEN_SECONDS, CALM_SECONDS, FORMING_SECONDS = 0.1, 0.5, 0.02
"""Longest waits for workers' news: at the start and the end, while a group computes, and while one is formed."""
NEW_NODE_SECONDS = 60.0
"""A worker started on a new node is killed if its slot is not held within this time, because others may have taken it."""


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
        self.workers = Workers(work, prestarted)
        self.committer = Committer(
            spec, run.checkpoints, self._note, lambda: recorder.val_losses, recorder.lineage, self._trusted
        )
        self.cut_reader = CutReader(run.folder)
        there = tuple(Checkpoint(*state_of(folder)) for folder in completed(run.checkpoints, recorder.lineage))
        history = History(recorder.lineage, recorder.roll_backs, there, recorder.rechecked)
        self.protocol = Protocol(spec, history, f"foundray resume {run.folder}", time.monotonic())
        self.slots: list[Slot] = []
        self.nodes: set[str] = set()
        """Nodes seen so far: workers are started early only on those that are new."""
        self.opening: Opening | None = None
        self.stop_taken = False
        self.next_due: dict[str, float] = {}
        self.recorded = self.stored = 0
        """The last step recorded, and the last stored, that the protocol knows."""

    def _trusted(self) -> int:
        """The last step that a loss of trust would go back to, as far as the log tells."""
        return undone_to(self.recorder.roll_backs, self.recorder.kept_from)

    def run(self) -> None:
        """Run until the run is finished, or stopped on request. Raises InputError or RunFailed."""
        try:
            self._prefetch()
            while self.protocol.stage is not Stage.ENDED:
                self.take(self._events())
        except FoundrayError:
            self.protocol.end()
            keep_what_is_done(self)
            raise

    def _prefetch(self) -> None:
        """Prefetch what the first group will most likely need: its workers, and the data from the last checkpoint on."""
        whole, certain = whole_nodes(), self.workers.prestarted is not None
        self.nodes |= whole.keys()
        expected = tuple(certain_slots(self.spec.scale.all_pools, whole if certain else free_resources()))
        self.take([m.Expected(expected, certain)])
        self.workers.end_prestart()
        done = self.protocol.stored_step
        roll_backs, per_step = self.recorder.roll_backs, self.spec.train.micro_batches
        offset, until = passed_over(roll_backs, done), next_turn(roll_backs, done) or self.spec.train.steps
        if done < until:
            self.work.feeder.prefetch.remote(self.work.plan, per_step, done + offset, (until + offset) * per_step)

    # Events

    def _events(self) -> list[Event]:
        """What has happened since the last call."""
        seconds = self._patience()
        if self.opening and self.protocol.stage is Stage.OPENING:
            self.opening.poll()
        events = self.workers.listen(seconds)
        if self._is_due("board", min(seconds, LISTEN_SECONDS) if self.protocol.stage is not Stage.COMPUTING else seconds):
            self.read_board()
        if self._is_due("slots", 2 * max(seconds, LISTEN_SECONDS)):
            computing = self.protocol.stage not in (Stage.GATHERING, Stage.ENDED)
            for pool, reason in self.ray_train.poll(self.slots, computing):
                self._note("places_lost", pool=pool, reason=reason)
            events.append(m.SlotsHeld(tuple(self.slots), frozenset(draining_nodes()), self.ray_train.problem() or ""))
            events += self._slots_on_new_nodes()
        if self.run_lock.stopping and not self.stop_taken:
            self.stop_taken = True
            events.append(m.StopAsked())
        if self.run_lock.taken:
            events.append(m.TakenOver(str(self.run_folder.folder)))
        return [*events, *self.last_events(), m.Tick()]

    def _slots_on_new_nodes(self) -> list[Event]:
        """Slots on nodes that have just joined: workers warm up there while Ray Train starts its processes."""
        try:
            whole = whole_nodes()  # not what is free: Ray Train may have reserved it meanwhile
        except Exception:  # the control store may be away for a while
            return []
        new = {node: amounts for node, amounts in whole.items() if node not in self.nodes}
        self.nodes |= new.keys()
        members = self.protocol.members
        taken = {member.slot.node for member in members.of.values()}
        staying = Counter(member.slot.pool for member in members.of.values() if member.slot.node not in members.draining)
        slots = slots_on_new_nodes(self.spec.scale.all_pools, staying, new) if new else []
        expected = tuple(slot for slot in slots if slot.node not in taken | members.draining)
        return [m.Expected(expected, certain=False, seconds=NEW_NODE_SECONDS)] if expected else []

    def last_events(self) -> list[Event]:
        """What storage has taken since the last call."""
        events = [*self.committer.poll(), *self.cut_reader.poll()]
        if self.recorder.step != self.recorded:
            self.recorded = self.recorder.step
            events.append(m.Recorded(self.recorded))
        if self.recorder.stored_step != self.stored:
            self.stored = self.recorder.stored_step
            events.append(m.Stored(self.stored))
        return events

    def _patience(self) -> float:
        """Longest wait for news: short while a group is formed, long while all compute."""
        if self.protocol.stage in (Stage.HALTING, Stage.HANDING_OVER, Stage.OPENING) or self.cut_reader.is_reading:
            return FORMING_SECONDS
        return CALM_SECONDS if self.protocol.calm else LISTEN_SECONDS

    def read_board(self) -> None:
        """Take the workers' records, and the slots held."""
        records, self.slots = ray.get(self.work.board.take.remote(), timeout=60)
        self.recorder.write(records)
        self.ray_train.note_requests(records)
        self._check_skipped()

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

    # Decisions

    def take(self, events: list[Event]) -> None:
        """Let the protocol take events, and do what it decides. Raises InputError or RunFailed if it gives up."""
        for decision in self.protocol.take(events, time.monotonic()):
            self._do(decision)

    def _do(self, decision: Decision) -> None:
        workers = self.workers
        match decision:
            case m.Start(number, slot):
                workers.start(number, slot)
            case m.Dismiss(number):
                workers.dismiss(number)
            case m.Halt(attempt, numbers):
                for number in numbers:
                    workers.halt(attempt, number)
            case m.HandOver():
                workers.hand_over(decision)
            case m.Open():
                self.recorder.forming(decision.world)
                self.opening = Opening(self.work, workers, decision)
                self.opening.poll()
            case m.Join():
                self._join(decision)
            case m.Pause(generation, numbers, save):
                for number in numbers:
                    workers.of[number].handle.pause.remote(generation, save)
            case m.Commit():
                self.committer.write(decision, self.protocol.members.parameters, self.protocol.usable())
            case _:
                self._record(decision)

    def _record(self, decision: Decision) -> None:
        """Record what has happened, or end."""
        match decision:
            case m.Note(kind, fields):
                self._note(kind, **self._with_names(kind, fields))
            case m.Undo(kind, fields, lineage):
                self._note(kind, **self._with_names(kind, fields))
                self.recorder.settle()  # otherwise a resumed run might not know of it, and use what is undone
                self.recorder.evaluated = min(self.recorder.evaluated, fields["to"])
                self.committer.follow(lineage)
            case m.ReadCuts(number):
                self.cut_reader.ask(number)
            case m.Follow(to, lineage, roll_backs):
                self.recorder.follow(to, lineage, roll_backs)
                self.committer.follow(lineage)
            case m.Waiting(ready, seconds, give_up):
                self._wait(ready, seconds, give_up)
            case m.GiveUp(reason, exit_status):
                raise (InputError if exit_status == InputError.exit_status else RunFailed)(reason)
            case m.End(state, step):
                self._end(state, step)

    def _join(self, join: m.Join) -> None:
        """Send the orders to join."""
        self.opening, self.committer.generation = None, join.generation
        self.read_board()  # an order includes the last recorded step
        if isinstance(join.source, Checkpoint):
            join = join._replace(source=self._identified(join.source))
        for number, order in zip(
            join.numbers, orders(join, self.spec, self.workers, self.protocol.members.of, self.recorder), strict=True
        ):
            self.workers.of[number].handle.take_part.remote(order)

    def _identified(self, checkpoint: Checkpoint) -> Checkpoint:
        """The checkpoint with its manifest's hash; without it if that cannot be read, as the workers will find, too."""
        manifest = place(self.run_folder.checkpoints, *checkpoint.name) / MANIFEST
        with suppress(InputError):
            return checkpoint._replace(sha256=sha256(manifest.read_bytes()))
        return checkpoint

    def _end(self, state: str, step: int) -> None:
        self.read_board()
        if state == "stopped":
            return self._note("stopped", step=self.recorder.reached, checkpoint=step, by=self.run_lock.stopping)
        facts = [self.protocol.members.of[number].status.facts for number in self.protocol.group]
        sha = next(fact["weights_sha256"] for fact in facts if fact.get("weights_sha256"))
        early = {"reason": reason} if (reason := facts[0].get("reason")) else {}
        self._note("finished", step=step, weights_sha256=sha, **early)

    def _wait(self, ready: int, seconds: float, give_up: bool) -> None:
        """Report that too few workers are ready. Raises InputError or RunFailed if the protocol gives up."""
        # Compare what a worker needs with what the cluster has.
        pools = self.spec.scale.all_pools.values()
        each = " or ".join(", ".join(f"{amount:g} {kind}" for kind, amount in pool.resources.items()) for pool in pools)
        kinds = dict.fromkeys(kind for pool in pools for kind in pool.resources)
        nodes = node_resources()
        have = ", ".join(f"{sum(node.get(kind, 0.0) for node in nodes):g} {kind}" for kind in kinds)
        fewest = self.protocol.world[0]
        found = f"{ready} of at least {fewest} workers are ready"
        if ready >= fewest:
            size = self.spec.scale.team_size
            found = f"{ready} workers are ready, but fewer than {fewest} in teams of {size} with one kind of device each"
        missing = f"{found}; each takes {each}, and the cluster has {have} in all"
        if not give_up:
            return self._note("waiting", reason=missing)
        kind = RunFailed if self.recorder.step else InputError
        resume = f"`foundray resume {self.run_folder.folder}` continues from the last checkpoint"
        raise kind(f"after {seconds:.0f} s {missing}; {resume}")

    def close(self) -> None:
        """Release the workers and their slots."""
        with suppress(RayError):
            self.recorder.write(ray.get(self.work.board.take.remote(), timeout=5)[0])
            ray.get(self.work.board.close.remote(), timeout=5)
        self.workers.close()
        self.committer.close()
        self.cut_reader.close()

    # Notes and timing

    def _note(self, name: str, **fields: Any) -> None:
        self.recorder.write([event(name, **fields)])

    def _with_names(self, kind: str, fields: dict[str, Any]) -> dict[str, Any]:
        """An event's fields with names of nodes for people, and a ready worker's facts."""
        named = dict(fields)
        known = self.workers.of.get(fields.get("member", 0))
        if known and kind == "member_ready":
            facts = self.protocol.members.of[fields["member"]].status.facts
            named |= {name: facts[name] for name in ("device", *HARDWARE_FIELDS, "model_s") if name in facts}
            named["node_id"] = known.slot.node
        if "node" in fields or kind == "member_ready":
            named["node"] = known.node if known else self._names(fields["node"])
        return named

    def _names(self, nodes: str) -> str:
        """Names of nodes given by Ray's ids, for people."""
        of = {worker.slot.node: worker.node for worker in self.workers.of.values()}
        return ", ".join(sorted({of.get(node, node) for node in nodes.split(", ")}))

    def _is_due(self, what: str, seconds: float) -> bool:
        now = time.monotonic()
        if now < self.next_due.get(what, 0.0):
            return False
        self.next_due[what] = now + seconds
        return True
