"""A simulated command: the real protocol, with a shell that can be killed or held up between any two decisions."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, TypeGuard

from tests.simulation.clock import Broken
from tests.simulation.worker import Worker

from foundray.runs.checkpoints import Checkpoint, Keep
from foundray.training.protocol import messages as m
from foundray.training.protocol.messages import Decision, Event
from foundray.training.protocol.stages import History, Stage

if TYPE_CHECKING:
    from tests.simulation.world import World

MOST_ATTEMPTS = 400
FEEDER_SECONDS = 60.0
"""Limit for the feeder to restart."""
TICK_SECONDS, FORMING_TICK_SECONDS, LONGEST_TICK_SECONDS = 0.5, 0.1, 5.0
"""Shortest times between signs of life: while a group computes or too few workers are ready, and otherwise; and the longest
one, while nothing happens: much shorter than any limit that counts in such a time.
"""
PATIENCE = 0.2
"""Time until the next signs of life, as a part of the time in which nothing has happened: limits are that exact."""
LOOK_SECONDS, SLOTS_SECONDS = 0.05, 1.0


class Driver:
    def __init__(self, world: World):
        self.world = world
        storage = world.storage
        history = History(storage.lineage, storage.roll_backs, tuple(storage.complete()), storage.rechecked)
        self.protocol = world.make_protocol(world.setup.spec(), history, "foundray resume", world.clock.now)
        self.workers: dict[int, Worker] = {}
        self.alive = True
        self.rechecked = storage.rechecked
        """The last step that a recheck has passed."""
        self.busy_until = 0.0
        """Time until which it does nothing."""
        self.decisions: deque[Decision] = deque()
        self.inbox: deque[Event] = deque()
        self.record_at = self.store_at = 0.0
        """Times at which the last step's record is read, and stored."""
        self.looks = False
        """Whether it will look at what has arrived."""
        self.ended: Decision | None = None
        self.starts = self.dismissals = 0
        self.stop_at: float | None = None
        """Time at which it was asked to stop."""
        self.held_up_s = 0.0
        """Seconds for which it was held up."""
        self.held, self.slots_at = m.SlotsHeld(()), 0.0
        """The slots that the protocol knows of, and the time at which it hears of them again."""
        self.happened_at = world.clock.now
        """Time of the last event or decision."""
        self.ticks, self.tick_at = 0, world.clock.now
        """Number of the next tick, and its time."""

    # Events

    def tick(self, number: int) -> None:
        """Signs of life, and time."""
        if not self.alive or number != self.ticks:
            return
        now = self.world.clock.now
        signs = [self.sign(worker) for worker in self.workers.values() if worker.works and worker.late_until <= now]
        self.hear([*signs, *self.slots(), m.Tick()])
        self.tick_after(min(max(self.shortest_tick(), PATIENCE * (now - self.happened_at)), LONGEST_TICK_SECONDS))

    def slots(self) -> list[Event]:
        """The slots held, if they have changed, and else once per second."""
        held = m.SlotsHeld(self.world.slots(), frozenset(self.world.draining))
        if held == self.held and self.world.clock.now < self.slots_at:
            return []
        self.held, self.slots_at = held, self.world.clock.now + SLOTS_SECONDS
        return [held]

    def shortest_tick(self) -> float:
        return TICK_SECONDS if self.protocol.stage in (Stage.COMPUTING, Stage.GATHERING) else FORMING_TICK_SECONDS

    def tick_after(self, seconds: float) -> None:
        """Have one tick after this time, and none before."""
        self.ticks += 1
        self.tick_at = self.world.clock.now + seconds
        self.world.clock.after(seconds, self.tick, self.ticks)

    def happen(self) -> None:
        """Something happens: more may follow soon."""
        self.happened_at = self.world.clock.now
        if self.tick_at > self.happened_at + (soon := self.shortest_tick()):
            self.tick_after(soon)

    def sign(self, worker: Worker) -> Event:
        """What a call that asks for a worker's status answers."""
        return m.Heard(worker.number, worker.status) if worker.answers else m.Gone(worker.number, "ActorUnavailableError")

    def take(self, *events: Event) -> None:
        """Take events, with others that arrive before the next look."""
        if not self.alive:
            return
        if m.StopAsked() in events:
            self.stop_at = self.world.clock.now
        self.happen()
        self.hear(events)

    def hear(self, events: Iterable[Event]) -> None:
        self.inbox.extend(events)
        if not self.looks:
            self.looks = True
            self.world.clock.after(self.world.draw(0.0, LOOK_SECONDS), self.look)

    def look(self) -> None:
        self.looks = False
        self.go_on()

    def go_on(self) -> None:
        """Do what was decided, in order, then take what has arrived meanwhile."""
        while self.alive:
            if (wait := self.busy_until - self.world.clock.now) > 0:
                return self.world.clock.after(wait + 0.001, self.go_on)
            if self.decisions:
                if self.world.crashes_at(self):
                    return self.die()
                self.do(self.decisions.popleft())
            elif self.inbox:
                events = list(self.inbox)
                self.inbox.clear()
                self.note_handed(events)
                failed = [event for event in events if self.is_failed(event)]
                self.decisions.extend(self.protocol.take(events, self.world.clock.now))
                if self.decisions:
                    self.happen()
                # Whom the same look counts as lost has no say, and the run may be another command's by now.
                heard = [one.status.reason for one in failed if one.number in self.protocol.members.of]
                if not any(isinstance(event, m.TakenOver) for event in events):
                    self.world.took(self, heard)
            else:
                return

    def note_handed(self, events: list[Event]) -> None:
        """Note which workers have handed over all that they were asked for, in time."""
        for event in events:
            if isinstance(event, m.HandedOver) and event.shards and self.protocol.stage is Stage.HANDING_OVER:
                self.workers[event.number].handed_over = event.attempt

    def is_failed(self, event: Event) -> TypeGuard[m.Heard | m.Halted]:
        """Whether a worker that takes part says that the run cannot continue."""
        heard = isinstance(event, m.Heard | m.Halted) and event.number in self.protocol.members.of
        return heard and event.status.phase is m.Phase.FAILED and self.protocol.stage is not Stage.ENDED

    def later(self, seconds: float, event: Event) -> None:
        self.world.clock.after(seconds, self.take, event)

    def report(self, worker: Worker) -> None:
        """A worker's status on its way to the driver."""
        self.later(self._answer_s(worker), self.sign(worker))

    def _answer_s(self, worker: Worker) -> float:
        """Seconds until a worker's answer arrives."""
        late = self.world.draw(0.5, 2.0) if worker.late_until > self.world.clock.now else 0.0
        return self.world.draw(0.002, 0.02) + late

    def lost(self, worker: Worker) -> None:
        self.later(self.world.draw(0.05, 6.0), m.Gone(worker.number, "its process is gone"))

    def record(self, step: int, passed: bool = False) -> None:
        """A step's record, on its way through the board into storage; `passed` if it has passed a recheck."""
        self.record_at = max(self.record_at, self.world.clock.now + self.world.draw(0.05, 0.6))  # in order
        self.world.clock.after(self.record_at - self.world.clock.now, self.recorded, step, passed)

    def recorded(self, step: int, passed: bool) -> None:
        if self.alive:
            self.rechecked = max(self.rechecked, step * passed)
            self.take(m.Recorded(step))
            self.store_at = max(self.store_at, self.world.clock.now + self.world.draw(0.01, 0.2))
            self.world.clock.after(self.store_at - self.world.clock.now, self.stored, step, passed)

    def stored(self, step: int, passed: bool) -> None:
        if not self.alive:
            return
        if (away := self.world.storage.away_until - self.world.clock.now) > 0:
            return self.world.clock.after(away + 0.01, self.stored, step, passed)
        self.world.storage.rechecked = max(self.world.storage.rechecked, step * passed)
        self.take(m.Stored(step))

    # Decisions

    def do(self, decision: Decision) -> None:
        world = self.world
        world.decided(self, decision)
        match decision:
            case m.Start(number, slot):
                self.starts += 1
                self.workers[number] = Worker(world, self, number, slot.node)
            case m.Dismiss(number):
                self.dismissals += 1
                worker = self.workers.pop(number)
                world.clock.after(world.draw(0.0, 0.5), worker.die)
            case m.Halt(attempt, numbers):
                if attempt > MOST_ATTEMPTS:
                    raise Broken(f"again and again: {attempt} attempts to form a group")
                for number in numbers:
                    self.call(number, self.halted, attempt, failed=m.Gone(number, "ActorUnavailableError"))
            case m.HandOver(attempt, number):
                self.call(number, self.hand_over, decision, failed=m.HandedOver(attempt, number, ()))
            case m.Open(attempt, _, host):
                self.open(attempt, host)
            case m.Join():
                self.join(decision)
            case m.Pause(generation, numbers, save):
                for number in numbers:
                    self.call(number, lambda worker, g=generation, s=save: worker.request_pause(g, s))
            case m.Commit(generation, checkpoint, parts):
                assert self.protocol.members.blocks, "the model's parameters are not known"
                files = [file.file for part in parts for file in part.shards]  # type: ignore[union-attr]
                world.clock.after(world.draw(0.05, 0.5) + world.storage.slow_s, self.commit, generation, checkpoint, files)
            case m.Undo():
                world.undone(self, decision)
            case m.ReadCuts(number):
                self.read_cuts(number)
            case m.Note(kind, fields):
                world.noted(kind, fields)
            case m.GiveUp() | m.End():
                self.end(decision)
            case m.Waiting(_, _, give_up) if give_up:
                self.end(decision)

    def call(self, number: int, method: Any, *arguments: Any, failed: Event | None = None) -> None:
        """Call a worker; a frozen one does it when it goes on, and a lost one never. `failed` answers a call that fails."""
        if (worker := self.workers.get(number)) and not worker.answers:
            if failed is not None:
                self.later(0.01, failed)
        elif worker:
            self.world.clock.after(self.world.draw(0.002, 0.02), self._arrive, worker, method, arguments)

    def _arrive(self, worker: Worker, method: Any, arguments: Any) -> None:
        if worker.works:
            method(worker, *arguments)
        elif worker.alive:
            self.world.clock.after(worker.frozen_until - self.world.clock.now + 0.001, self._arrive, worker, method, arguments)

    def halted(self, worker: Worker, attempt: int) -> None:
        status, shards = worker.halt(attempt)
        self.later(self._answer_s(worker), m.Halted(attempt, worker.number, status, shards))

    def hand_over(self, worker: Worker, wanted: m.HandOver) -> None:
        attempt, number, to, shards = wanted
        if (successor := self.workers.get(to)) and successor.alive and all(shard in worker.replicas.held for shard in shards):
            if wait := self.world.cut_s(worker.node, successor.node):
                return self.world.clock.after(wait + 0.01, self._arrive, worker, self.hand_over, (wanted,))
            for shard in shards:
                successor.keep(shard, worker.replicas.get(shard))
                successor.offered.add(shard)
            return self.later(self.world.draw(0.01, 0.1), m.HandedOver(attempt, number, shards))
        self.later(0.01, m.HandedOver(attempt, number, ()))

    def open(self, attempt: int, host: int) -> None:
        generation = self.world.new_generation()
        away = max(0.0, self.world.feeder_until - self.world.clock.now)
        if not self.workers[host].answers or away > FEEDER_SECONDS:
            self.later(min(away, FEEDER_SECONDS), m.NotOpened(attempt, "ActorUnavailableError"))
        elif self.workers[host].works:
            self.later(self.world.draw(0.01, 0.05) + away, m.Opened(attempt, generation, ("host", 1)))
        else:
            self.later(5.0, m.NotOpened(attempt, "GetTimeoutError"))

    def read_cuts(self, number: int) -> None:
        """Read the log; while only this command records, what it says is known."""
        storage = self.world.storage
        if (away := storage.away_until - self.world.clock.now) > 0:
            return self.world.clock.after(away + 0.01, self.read_cuts, number)
        read = m.CutsRead(number, storage.lineage, storage.roll_backs)
        if self.world.overlapped:
            return self.later(0.05, read)
        self.inbox.append(read)

    def join(self, join: m.Join) -> None:
        start = join.source.step if join.source else 0
        self.rechecked, self.world.storage.rechecked = min(self.rechecked, start), min(self.world.storage.rechecked, start)
        workers = [self.workers[number] for number in join.numbers]
        self.world.check_teams(workers)
        if isinstance(join.source, Checkpoint) and not join.source.sha256 and join.source.name in self.world.storage.manifests:
            source = join.source._replace(sha256=self.world.storage.sha(join.source.name))
            join = join._replace(source=source)
        group = self.world.make_group(self.world, self, join, workers)
        for number in join.numbers:
            self.call(number, lambda worker: worker.take_part(group))

    def commit(self, generation: int, checkpoint: Checkpoint, files: list[str]) -> None:
        """Write a manifest in a thread: it may arrive although the command has died."""
        storage = self.world.storage
        if not self.alive and self.world.rng.random() < 0.5:
            return
        if storage.away_until > self.world.clock.now:
            return self.take(m.NotCommitted(checkpoint, "503"))
        if set(files) <= set(storage.files.get(checkpoint.name, {})):
            sha = storage.commit(checkpoint.name, files)
            self.take(m.Committed(generation, checkpoint._replace(sha256=sha)))
        else:
            self.take(m.NotCommitted(checkpoint, "a shard is gone"))
        if self.alive:
            self.prune()

    def prune(self) -> None:
        """Delete what need not be kept, if storage allows it."""
        counted = self.protocol.usable()
        wanted = Keep.by(self.protocol.spec, rechecked=lambda: self.rechecked).of([one.step for one in counted])
        gone = frozenset(one for one in counted if one.step not in wanted)
        if gone and self.world.storage.refuses_until <= self.world.clock.now:
            for one in gone:
                self.world.storage.delete(one.name)
            self.take(m.Pruned(gone))

    # The end

    def die(self) -> None:
        """The command is killed, and its workers with it."""
        self.alive = False
        for worker in self.workers.values():
            worker.die()
        self.world.clock.after(self.world.draw(0.5, 5.0), self.world.resume)

    def end(self, decision: Decision) -> None:
        self.ended = decision
        self.alive = False
        self.world.ends(self)
        for worker in self.workers.values():
            worker.die()
        self.world.command_ended(decision)
