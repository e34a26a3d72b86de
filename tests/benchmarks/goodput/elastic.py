"""The elastic system: the real protocol, with a shell that answers its decisions in simulated time."""

from __future__ import annotations

import random
import time
from collections import Counter
from collections.abc import Callable, Iterable
from functools import partial

from tests.benchmarks.goodput.costs import Costs
from tests.benchmarks.goodput.group import BLOCKS, Group, Worker
from tests.benchmarks.goodput.outcome import Outcome
from tests.benchmarks.goodput.traces import Change, Trace, most_nodes, node_seconds
from tests.simulation.clock import Clock

from foundray.runs.checkpoints import Checkpoint
from foundray.spec import Spec
from foundray.testing.specs import make_spec
from foundray.training.protocol import messages as m
from foundray.training.protocol.messages import Decision, Event, Phase, Status
from foundray.training.protocol.protocol import Protocol
from foundray.training.protocol.stages import History, Stage
from foundray.training.slots.slot import Slot

GRID = 0.1
"""The shell takes what has arrived this often; what arrives in between is taken together."""
GATHERING_TICK, SIGN_SECONDS = 0.5, 1.0


def spec_for(costs: Costs, most: int) -> Spec:
    """A spec for so many workers; its run waits for nodes, and tries again, as long as it takes."""
    base = make_spec()
    fault = base.fault.model_copy(update={"silence_s": costs.silence_s, "max_restarts": 10**6, "wait_s": 1e9})
    return base.model_copy(update={"fault": fault, "scale": base.scale.model_copy(update={"workers": (1, most)})})


class Elastic:
    def __init__(self, costs: Costs, trace: Trace, seconds: float, seed: int = 0):
        self.costs, self.trace, self.seconds = costs, trace, seconds
        self.rng, self.clock = random.Random(seed), Clock()
        self.clock.now = 0.0
        self.protocol = Protocol(spec_for(costs, most_nodes(trace)), History(), "resume", 0.0)
        self.nodes: dict[str, None] = {}
        self.workers: dict[int, Worker] = {}
        self.on: dict[str, Worker] = {}
        self.group: Group | None = None
        self.due: dict[int, list[Callable[[], Iterable[Event]]]] = {}
        """What makes the events that arrive by each point of the grid."""
        self.unsaid: list[Event] = []
        """Events to be taken with the next ones."""
        self.joiners: list[Worker] = []
        """Ready workers that wait for the next break."""
        self.cause, self.stopped = "start", 0.0
        """Why no group computes, and since when."""
        self.slots_changed = self.ticks = False
        """Whether the next look tells of the slots, and whether a tick is due."""
        self.signed = -SIGN_SECONDS
        """Time at which all workers last gave a sign of life."""
        self.stored = 0
        self.lost: Counter[str] = Counter()
        self.counts: Counter[str] = Counter()
        self.cpu_s = 0.0

    def run(self) -> Outcome:
        for change in self.trace:
            self.clock.after(change.at, self.change, change)
        self.clock.run(self.seconds, lambda: False)
        self.clock.now = self.seconds
        self.stop(self.seconds)
        steps = self.group.steps(self.seconds) if self.group else 0
        useful, node_s = steps * self.costs.work_s, node_seconds(self.trace, self.seconds)
        self.lost["outside the group"] = node_s - useful - sum(self.lost.values())
        return Outcome(useful, node_s, dict(self.lost), {**self.counts, "CPU ms": 1e3 * self.cpu_s, "steps": steps})

    # Events

    def post(self, seconds: float, make: Callable[[], Iterable[Event]]) -> None:
        """Have events taken that arrive after so many seconds, as they are then."""
        point = -int(-(self.clock.now + seconds + 1e-9) // GRID)
        if point not in self.due:
            self.due[point] = []
            self.clock.after(max(0.0, point * GRID - self.clock.now), self.deliver, point)
        self.due[point].append(make)

    def deliver(self, point: int) -> None:
        events = [event for make in self.due.pop(point) for event in make()]
        if self.slots_changed:
            self.slots_changed = False
            events.append(m.SlotsHeld(tuple(Slot(node, (), "") for node in self.nodes)))
        if events or self.unsaid:
            self.take(events)

    def take(self, events: list[Event]) -> None:
        events, self.unsaid = [*self.unsaid, *events], []
        began = time.process_time()
        decisions = self.protocol.take(events, self.clock.now)
        self.cpu_s += time.process_time() - began
        self.counts["events"] += len(events)
        for decision in decisions:
            self.do(decision)
        if self.protocol.stage is not Stage.COMPUTING and self.workers:
            seconds = GATHERING_TICK if self.protocol.stage is Stage.GATHERING else GRID
            if not self.ticks:
                self.ticks = True
                self.post(seconds - GRID / 2, self.tick)

    def tick(self) -> list[Event]:
        """Signs of life, and time, unless all compute."""
        self.ticks = False
        return [] if self.protocol.stage is Stage.COMPUTING else self.signs()

    def signs(self) -> list[Event]:
        """Signs of life of all workers once per second, in between of those that have not halted, and time."""
        every = self.clock.now - self.signed >= SIGN_SECONDS
        self.signed = self.clock.now if every else self.signed
        held = () if every else self.protocol.attempt.held
        return [*(m.Heard(n, one.status) for n, one in self.workers.items() if one.alive and n not in held), m.Tick()]

    def look_at_slots(self) -> list[Event]:
        """Tell of the slots once in this look, whatever has changed."""
        self.slots_changed = True
        return []

    # The cluster

    def change(self, change: Change) -> None:
        if change.there:
            self.nodes[change.node] = None
            return self.post(0.0, self.look_at_slots)
        del self.nodes[change.node]
        worker = self.on.pop(change.node, None)
        if worker is None:
            return self.post(self.costs.gone_s, self.look_at_slots)
        self.unsaid.append(m.Heard(worker.number, worker.status))  # until now it has answered
        worker.alive = False
        self.counts["lost"] += 1
        noticed_s = self.costs.silence_s + 2 * GRID if change.silent else self.costs.gone_s
        self.post(0.0, list)
        self.post(noticed_s, self.look_at_slots)
        self.post(noticed_s, self.signs if change.silent else lambda: [m.Gone(worker.number, "its process is gone")])
        group = self.group
        if group and worker in group.workers and group.stopped is None:
            self.stop(self.clock.now)
            if not change.silent:
                self.post(self.costs.closed_s, partial(self.broken, group))

    def stop(self, now: float) -> None:
        """The group computes no more, because of a break if nothing else is said."""
        group, costs = self.group, self.costs
        if group is None or group.stopped is not None:
            return
        group.stop(now)
        step, stored = group.steps(now), group.stored(now)
        if now > group.begins:
            computed = (now - group.begins) * len(group.workers)
            steps_s = (step - group.base) * costs.step(len(group.workers)) * len(group.workers)
            self.lost["replicas and checkpoints"] += steps_s * (group.step_s / costs.step(len(group.workers)) - 1)
            self.lost["uneven shares"] += steps_s - (step - group.base) * costs.work_s
            self.lost["steps cut short"] += computed - steps_s * group.step_s / costs.step(len(group.workers))
        else:
            self.lost[f"after a {self.cause}: set-up and state"] -= (group.begins - now) * len(group.workers)
        self.cause, self.stopped = "break", now
        self.unsaid += [m.Recorded(step), m.Stored(step)]
        if stored > self.stored:
            old, self.stored = self.stored, stored
            self.unsaid += [m.Committed(group.generation, Checkpoint(stored, "")), m.Pruned(frozenset({Checkpoint(old, "")}))]
        until = now + costs.closed_s
        for worker in group.workers:
            worker.leaves_at = until + (self.rng.random() * costs.micro_s if now > group.begins else 0.0)

    def broken(self, group: Group) -> list[Event]:
        """The first worker that notices it, and joiners that have waited for a break."""
        first = next((worker for worker in group.workers if worker.alive), None)
        joiners = [m.Heard(worker.number, worker.status) for worker in self.joiners if worker.alive]
        self.joiners = []
        if first is None or group is not self.group:
            return joiners
        self.leave(first, group)
        return [*joiners, m.Heard(first.number, first.status)]

    def leave(self, worker: Worker, group: Group) -> None:
        """A worker leaves a group that has broken."""
        if worker.status.phase is Phase.RUNNING:
            worker.status = group.broken

    # Decisions

    def do(self, decision: Decision) -> None:
        costs = self.costs
        match decision:
            case m.Start(number, slot):
                self.start(number, slot.node)
            case m.Dismiss(number):
                self.dismiss(self.workers.pop(number))
            case m.Halt(attempt, numbers):
                self.halt(attempt, [self.workers[number] for number in numbers])
            case m.HandOver(attempt, number):
                self.post(costs.call_s, lambda: [m.HandedOver(attempt, number, ())])
            case m.Open(attempt, _, host):
                if self.workers[host].alive:
                    self.post(costs.open_s, lambda: [m.Opened(attempt, attempt, ("host", 1))])
                else:
                    self.post(5.0, lambda: [m.NotOpened(attempt, "no answer")])
            case m.Join():
                self.join(decision)
            case m.Pause(generation, _, _):
                self.pause(generation)
            case m.ReadCuts(number):
                self.post(costs.call_s, lambda: [m.CutsRead(number, (), ())])
            case m.Note(kind, _):
                self.counts[kind] += 1
            case m.Waiting(_, _, give_up=False):
                pass
            case _:
                raise AssertionError(decision)

    def start(self, number: int, node: str) -> None:
        worker = self.workers[number] = Worker(number, node, alive=node in self.nodes)
        if worker.alive:
            self.on[node] = worker
            self.clock.after(self.costs.warm_s if self.clock.now > SIGN_SECONDS else 0.0, self.ready, worker)
        else:
            self.post(self.costs.gone_s, lambda: [m.Gone(number, "its node is gone")])

    def dismiss(self, worker: Worker) -> None:
        worker.alive = False
        if self.on.get(worker.node) is worker:
            del self.on[worker.node]

    def ready(self, worker: Worker) -> None:
        """A worker is warm. A patient one waits for the next break, or until those that wait are worth a pause."""
        if not worker.alive:
            return
        costs, group = self.costs, self.group
        worker.status = Status(Phase.READY, 1, facts={"blocks": BLOCKS})
        self.joiners = [one for one in [*self.joiners, worker] if one.alive]
        size = len(group.workers) if group and group.stopped is None and costs.patient else 0
        if not size or costs.worth(size, len(self.joiners), costs.setup(size) + costs.move_s):
            joiners, self.joiners = self.joiners, []
            self.post(0.0, lambda: [m.Heard(one.number, one.status) for one in joiners if one.alive])

    def halt(self, attempt: int, workers: list[Worker]) -> None:
        """Ask workers to stop, each of which first ends its micro-batch."""
        self.stop(self.clock.now)
        for worker in workers:
            wait = worker.leaves_at - self.clock.now if worker.status.phase is Phase.RUNNING else 0.0
            self.post(self.costs.call_s + max(0.0, wait), partial(self.halted, attempt, worker, self.group))

    def halted(self, attempt: int, worker: Worker, group: Group | None) -> list[Event]:
        if not worker.alive:
            return []
        if group:
            self.leave(worker, group)
        return [m.Halted(attempt, worker.number, worker.status, worker.held)]

    def join(self, join: m.Join) -> None:
        """The group has its communicator after its set-up, and then its state."""
        costs, workers, now = self.costs, [self.workers[number] for number in join.numbers], self.clock.now
        base = join.source.step if join.source else 0
        if self.group and (repeated := self.group.steps(now) - base):
            self.counts["steps repeated"] += repeated
            self.lost["steps repeated"] += repeated * costs.work_s
        self.counts["groups from a checkpoint"] += isinstance(join.source, Checkpoint)
        read_s = costs.storage_s if isinstance(join.source, Checkpoint) else costs.move_s if join.source else 0.0
        forming_s = costs.setup(len(workers)) + read_s
        if self.cause == "start":
            self.cpu_s = 0.0  # what counts is what a failure costs
        running = Status(Phase.RUNNING, 1, join.generation)
        for worker in workers:
            worker.status = running
        self.group = Group(costs, join.generation, workers, base, now + forming_s)
        self.counts[f"groups after a {self.cause}"] += 1
        self.lost[f"after a {self.cause}: notice and agree"] += (now - self.stopped) * len(workers)
        self.lost[f"after a {self.cause}: set-up and state"] += forming_s * len(workers)
        self.stopped = now + forming_s
        if not all(worker.alive for worker in workers):  # the others wait for it until it is known to be lost
            self.counts["groups with a lost worker"] += 1
            self.stop(now)

    def pause(self, generation: int) -> None:
        group = self.group
        if group and group.generation == generation and group.stopped is None:
            boundary = group.boundary(self.clock.now + self.costs.call_s)
            self.clock.after(boundary - self.clock.now, self.paused, group)

    def paused(self, group: Group) -> None:
        if group.stopped is not None:
            return
        self.stop(self.clock.now)
        self.cause = "joiner"
        paused = Status(Phase.PAUSED, 2, group.generation, done=group.steps(self.clock.now))
        for worker in group.workers:
            worker.status = paused
        self.post(0.0, lambda: [m.Heard(worker.number, worker.status) for worker in group.workers if worker.alive])
