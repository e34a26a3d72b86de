"""Broken protocols, each with a fault of earlier designs, that the histories must find: controls of the simulation itself."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Literal

from tests.simulation.driver import Driver
from tests.simulation.model import Weights
from tests.simulation.storage import Name, Storage
from tests.simulation.worker import Group, Worker
from tests.simulation.world import World

from foundray.errors import RunFailed
from foundray.runs.checkpoints import Checkpoint
from foundray.runs.lineage import Cut, Lineage
from foundray.training.elastic.replicas import Replicas
from foundray.training.protocol import messages as m
from foundray.training.protocol.protocol import Protocol
from foundray.training.protocol.stages import Stage
from foundray.training.protocol.states import Source
from foundray.training.rollback import RollBack, updated


class _Deleting(Protocol):
    """States know of no cut: what a cut undoes is deleted at once, and what is left counts."""

    def _undo(self, kind: Literal["rolled_back", "left_out"], to: int, step: int, **fields: Any) -> None:
        self._decide(m.Undo(kind, {"to": to, "step": step, **fields}, ()))


class DeletingWorld(World):
    """Undone states are deleted: in storage if it allows that, and by the workers that answer.

    A command that is killed before, a refused delete, a commit in flight or a silent worker bring them back.
    """

    make_protocol = _Deleting

    def undone(self, driver: Driver, decision: m.Undo) -> None:
        super().undone(driver, decision)
        to = decision.fields["to"]
        driver.protocol.checkpoints = [one for one in driver.protocol.checkpoints if one.step <= to]
        for number in driver.protocol.attempt.held:
            replicas = driver.workers[number].replicas
            replicas.held = {shard: content for shard, content in replicas.held.items() if shard.step <= to}
            driver.protocol.attempt.held[number] = tuple(replicas.held)
            driver.workers[number].offered &= set(replicas.held)
        self.clock.after(driver.busy_until - self.clock.now, self.delete_after, driver, to)

    def check_repeated(self, before: Group, group: Group) -> None:
        """Its groups do not know which cuts came between them."""

    def delete_after(self, driver: Driver, to: int) -> None:
        if driver.alive and self.storage.refuses_until <= self.clock.now:
            for one in self.storage.complete():
                if one.step > to:
                    self.storage.delete(one.name)


class _Seen(Group):
    """Each worker looks for the newest checkpoint itself, at its own moment."""

    def load(self, source: Source | Checkpoint | None) -> None:
        if not isinstance(source, Source) and len(self.workers) > 1 and self.world.storage.complete():
            self.seen: dict[Worker, tuple[int, Weights]] = {}
            for worker in self.workers:
                self.world.clock.after(self.world.draw(0.0, 0.3), self.look, worker)
        else:
            super().load(source)

    def look(self, worker: Worker) -> None:
        newest = self.world.storage.complete()[0]
        loaded = self.world.storage.load(newest)
        self.seen[worker] = newest.step, loaded if isinstance(loaded, tuple) else ()
        if len(self.seen) == len(self.workers) and not self.over and all(weights for _, weights in self.seen.values()):
            super().load(newest)
            for worker, (_, weights) in self.seen.items():
                worker.weights = weights


class EachLooksWorld(World):
    """Workers that list checkpoints at slightly different moments load different steps, and train on with mixed weights."""

    make_group = _Seen

    def __init__(self, *arguments: Any):
        super().__init__(*arguments)
        self.agreement = False


class _Forgetful(Replicas[Weights]):
    """Keeps the newest states, whatever the group was ordered to start from."""

    def start_from(self, state: tuple[int, int] | None, lineage: Lineage) -> None:
        super().start_from(None, lineage)

    def whole(self, state: tuple[int, int] | None) -> None:
        pass


class ForgetfulWorld(World):
    """Breaks in a row while workers join leave incomplete states, which push the complete one out of their memories."""

    make_replicas = _Forgetful


class _Unawaited(Group):
    """Steps count before the copies of the state before have arrived."""

    def replicate(self) -> None:
        super().replicate()
        self.copied_at = 0.0


class UnawaitedWorld(World):
    """The loss of one worker repeats more steps than lie between two replications."""

    make_group = _Unawaited


class _OnePlace(Storage):
    """Checkpoints are in folders named after their steps alone."""

    def write(self, name: Name, file: str, first: int, content: Weights) -> None:
        super().write((name[0], ""), file, first, content)

    def commit(self, name: Name, files: list[str]) -> str:
        return super().commit((name[0], ""), files)


class OnePlaceWorld(World):
    """A late shard or manifest replaces that of another lineage."""

    make_storage = _OnePlace


class _Unfenced(Protocol):
    """Takes late answers of earlier attempts for answers of this one."""

    def _take(self, event: m.Event) -> None:
        if isinstance(event, m.Halted | m.Opened | m.HandedOver):
            event = event._replace(attempt=self.attempt.number)
        super()._take(event)


class UnfencedWorld(World):
    """Groups are formed from states of workers that compute again."""

    make_protocol = _Unfenced


class _Incurious(Protocol):
    """Never asks why a group broke."""

    def _find_cause(self) -> None:
        self.broken = False


class IncuriousWorld(World):
    """A spike, or a damaged checkpoint, comes again and again."""

    make_protocol = _Incurious


class _Twice(Storage):
    """A cut counts as often as it is recorded."""

    def cut(self, kind: str, fields: dict[str, Any]) -> None:
        self.events.append({"event": kind, **fields})
        self.lineage += (Cut(fields["cut"], fields["to"]),)
        self.roll_backs = updated(self.roll_backs, self.events[-1])


class TwiceWorld(World):
    """Two commands that record the same cut make the states that follow from it unusable, or another run of them."""

    make_storage = _Twice


class _Patient(Protocol):
    """Tries a checkpoint that does not answer again and again."""

    def _skip(self, unreadable: set[m.Unreadable]) -> None:
        if any("does not answer" in one.reason for one in unreadable):
            raise RunFailed("storage has not answered")
        super()._skip(unreadable)


class PatientWorld(World):
    """Each command gives up at the same checkpoint, though there is another one."""

    make_protocol = _Patient

    def heed(self, decision: m.GiveUp) -> None:
        """The user can do nothing."""


class _Deaf(Protocol):
    """Takes a failed worker for a broken one."""

    def _hear(self, number: int, status: m.Status) -> None:
        phase = m.Phase.BROKEN if status.phase is m.Phase.FAILED else status.phase
        super()._hear(number, replace(status, phase=phase))


class DeafWorld(World):
    """An error that every group meets is met again, and the user does not see it."""

    make_protocol = _Deaf


class _Bound(Protocol):
    """Has no limit for the leases, or another group, once a stop was asked for."""

    def _stops(self) -> bool:
        in_vain = self.stage is Stage.GATHERING or self.recorded <= self.stored_step
        return in_vain and super()._stops()


class BoundWorld(World):
    """A stop takes as long as the feeder is away, if steps are not stored."""

    make_protocol = _Bound


class _Busy(Protocol):
    """Ends on request between two groups only if too few workers are there."""

    def _stops(self) -> bool:
        return self.stage is Stage.GATHERING and super()._stops()


class BusyWorld(World):
    """A stop takes as long as the feeder is away, though all that is recorded is stored."""

    make_protocol = _Busy


class _Trusting(Protocol):
    """Takes every order for delivered."""

    def __init__(self, *arguments: Any, **options: Any):
        super().__init__(*arguments, **options)
        self.members.missed_order = lambda number, now: False  # type: ignore[method-assign]


class TrustingWorld(World):
    """A lone worker whose order was lost waits for it for ever, and the driver for the worker."""

    make_protocol = _Trusting


class _Alone(Protocol):
    """Reads the log only when it begins."""

    def _follow(self, lineage: Lineage, roll_backs: tuple[RollBack, ...]) -> None:
        pass


class AloneWorld(World):
    """A command continues from states that another one has undone, before that one saw that it was taken over from."""

    make_protocol = _Alone


class _Credulous(Protocol):
    """Trusts each step in which a recheck was due, for any number of workers."""

    def _cordon(self, suspects: tuple[int, ...], done: int) -> None:
        every = self.spec.guard.recheck_every or 1
        self.trusted = done // every * every
        super()._cordon(suspects, done)


class CredulousWorld(World):
    """What a corrupt worker computed alone is kept when others find out later."""

    make_protocol = _Credulous


class _Blind(Protocol):
    """Takes all devices for one kind."""

    def _hear(self, number: int, status: m.Status) -> None:
        facts = {name: fact for name, fact in status.facts.items() if name != "hardware"}
        super()._hear(number, replace(status, facts=facts))


class BlindWorld(World):
    """Teams are made of devices of several kinds."""

    make_protocol = _Blind


MUTANTS: dict[str, type[World]] = {
    "undone states are deleted": DeletingWorld,
    "each worker looks for the newest checkpoint": EachLooksWorld,
    "sources are not kept": ForgetfulWorld,
    "copies are not awaited": UnawaitedWorld,
    "a step has one folder": OnePlaceWorld,
    "late answers count": UnfencedWorld,
    "causes are not found": IncuriousWorld,
    "a cut counts as often as it is recorded": TwiceWorld,
    "a checkpoint that never answers is tried again": PatientWorld,
    "errors of workers are not heard": DeafWorld,
    "a stop waits for leases": BoundWorld,
    "a stop waits for a group, though all is stored": BusyWorld,
    "orders are taken for delivered": TrustingWorld,
    "cuts of other commands are not read": AloneWorld,
    "a recheck that was due is taken for passed": CredulousWorld,
    "kinds of devices are not seen": BlindWorld,
}
