"""A protocol that a test brings events, at times that it sets."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, TypeVar

from foundray.runs.checkpoints import Checkpoint
from foundray.runs.lineage import Lineage
from foundray.testing.specs import make_spec
from foundray.training.protocol import messages as m
from foundray.training.protocol.messages import Decision, Event, Phase, Status, Written
from foundray.training.protocol.protocol import Protocol
from foundray.training.protocol.stages import History
from foundray.training.protocol.states import StateShard
from foundray.training.rollback import RollBack
from foundray.training.slots.slot import Slot

BLOCKS = 6
D = TypeVar("D")


def slots(nodes: str) -> tuple[Slot, ...]:
    """A slot on each node, whose name is one letter."""
    return tuple(Slot(node, (), "workers") for node in nodes)


def shards(step: int, *blocks: tuple[int, int], generation: int = 1, made_under: str = "") -> tuple[StateShard, ...]:
    """State shards of these ranges of blocks."""
    return tuple(StateShard(step, generation, start, stop, (), made_under) for start, stop in blocks)


class Part:
    """A shard file, as far as the protocol looks at it."""

    def __init__(self, start: int, stop: int, generation: int):
        self.file, self.ranges, self.generation = f"{start}-{stop}", [(start, stop)], generation


def part(step: int, start: int = 0, stop: int = BLOCKS, generation: int = 1, made_under: str = "") -> Written:
    """A part of a checkpoint that was written."""
    file: Any = Part(start, stop, generation)
    return Written(generation, step, made_under, (file,), 0.1)


class Scripted:
    """A protocol, what it has decided, and what its workers have said last."""

    def __init__(self, checkpoints: tuple[Checkpoint, ...] = (), workers: tuple[int, int] = (1, 3), **changes: Any):
        self.spec = make_spec(**{"scale__workers": list(workers), "train__steps": 24, **changes})
        self.now = 100.0
        history = History(checkpoints=checkpoints)
        self.protocol = Protocol(self.spec, history, "foundray resume run", self.now)
        self.decided: list[Decision] = []
        self.log: tuple[Lineage, tuple[RollBack, ...]] | None = None
        """What the log says; None if only this command has recorded cuts."""
        self.log_answers = True
        self.statuses: dict[int, Status] = {}

    # Events

    def take(self, *events: Event) -> list[Decision]:
        """Bring events one after another, and return what the protocol decides; `log` answers what the log's cuts are."""
        found: list[Decision] = []
        waiting = list(events)
        while waiting:
            for decision in self.protocol.take([waiting.pop(0)], self.now):
                if not isinstance(decision, m.ReadCuts):
                    found.append(decision)
                elif self.log_answers:
                    waiting.insert(0, m.CutsRead(decision.number, *(self.log or (self.lineage, self.protocol.roll_backs))))
        self.decided += found
        return found

    def after(self, seconds: float, *events: Event) -> list[Decision]:
        """Let time pass, then bring events."""
        self.now += seconds
        return self.take(*events, m.Tick())

    def say(self, number: int, phase: Phase | None = None, **changes: Any) -> list[Decision]:
        """Let a worker report what has changed."""
        return self.take(m.Heard(number, self.status(number, phase, **changes)))

    def status(self, number: int, phase: Phase | None = None, **changes: Any) -> Status:
        """A worker's new status; one that runs has been ordered to join the present group."""
        old = self.statuses.get(number, Status())
        if phase is Phase.RUNNING:
            old = Status(version=old.version, generation=self.protocol.generation)
        if phase is Phase.READY:
            changes.setdefault("facts", {"blocks": BLOCKS, "parameters": []})
        self.statuses[number] = replace(old, version=old.version + 1, phase=phase or old.phase, **changes)
        return self.statuses[number]

    def answer(self, held: dict[int, tuple[StateShard, ...]]) -> list[Decision]:
        """Let workers answer to `Halt` with what they hold; those that run break first."""
        found = []
        for number, there in held.items():
            if self.statuses[number].phase is Phase.RUNNING:
                self.status(number, Phase.BROKEN, reason="closed by peer")
            found += self.take(m.Halted(self.protocol.attempt.number, number, self.statuses[number], there))
        return found

    def open(self) -> m.Join:
        """Let the leases open; returns the order to join, which the workers follow."""
        generation = self.protocol.generation + 1
        join = only(m.Join, self.take(m.Opened(self.protocol.attempt.number, generation, ("host", 1))))
        for number in join.numbers:
            self.say(number, Phase.RUNNING)
        return join

    def ready(self, nodes: str) -> None:
        """Let slots on these nodes be held, and all workers that are started in them become ready."""
        for start in every(m.Start, self.take(m.SlotsHeld(slots(nodes)))):
            self.say(start.number, Phase.READY)

    def form(self, nodes: str) -> m.Join:
        """Let the first group form, with a worker on each node, and compute."""
        self.ready(nodes)
        self.answer(dict.fromkeys(self.protocol.members.of, ()))
        return self.open()

    def break_(self, number: int, reason: str = "closed by peer", **changes: Any) -> list[Decision]:
        """Let a worker report that its group broke."""
        return self.say(number, Phase.BROKEN, reason=reason, **changes)

    # What was decided

    @property
    def lineage(self) -> Lineage:
        return self.protocol.lineage

    def notes(self, kind: str) -> list[dict[str, Any]]:
        """The events of a kind that were noted."""
        return [note.fields for note in every(m.Note, self.decided) if note.kind == kind]


def every(kind: type[D], decisions: list[Decision]) -> list[D]:
    """The decisions of a kind."""
    return [one for one in decisions if isinstance(one, kind)]


def only(kind: type[D], decisions: list[Decision]) -> D:
    """The one decision of a kind."""
    found = every(kind, decisions)
    assert len(found) == 1, decisions
    return found[0]
