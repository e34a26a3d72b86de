"""The elastic protocol: a pure function of events to decisions, without Ray, clock or storage.

Workers compute as a *group*. When it breaks, or when a worker joins or leaves, the protocol asks all workers to halt, lets
those that leave hand over their state, opens a generation of leases, and orders the rest to join, from the newest complete
state that they hold or that is stored. What undoes states is recorded before it has any effect. The shell around it is
`elastic.coordinator`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from functools import partial
from typing import Any, Literal

from foundray.errors import FoundrayError, InputError, RunFailed
from foundray.runs.checkpoints import Checkpoint
from foundray.runs.lineage import Lineage, cut, usable
from foundray.spec import Spec
from foundray.training.protocol import messages as m
from foundray.training.protocol.attempt import HALT_SECONDS, Attempt
from foundray.training.protocol.commits import Commits
from foundray.training.protocol.failures import Failures, lost_connection
from foundray.training.protocol.log_reads import LogReads
from foundray.training.protocol.members import Member, Members
from foundray.training.protocol.messages import Decision, Event, Phase, Status
from foundray.training.protocol.stages import History, Stage
from foundray.training.protocol.states import Source
from foundray.training.protocol.teams import in_teams
from foundray.training.rollback import RollBack, appended, roll_back, trusted, undone_to

OPEN_SECONDS = 70.0
"""Limit for the leases to open."""
COMMIT_SECONDS = 10.0
"""Limit for the manifest of a whole checkpoint, if memory holds no state: longer than its records take to an object store."""
PAUSE_SECONDS = 1.0
"""Interval between two requests to pause: one may arrive before the order to join."""
GATHER_SECONDS = 30.0
"""Time that the first workers wait at the start for others whose slots are held."""
WAITING_REPORT_SECONDS = 40.0
"""Time without enough workers after which the run reports what it waits for."""
MAX_ROLL_BACKS = 16
"""Maximum roll-backs past loss spikes in a run."""


class Protocol:
    stage: Stage
    since: float
    """Time since which the stage lasts."""
    checkpoints: list[Checkpoint]
    """The complete checkpoints, newest first; a cut may have undone some."""
    damaged: dict[tuple[int, str], str]
    """Names of checkpoints that some worker could not read, and why."""
    skipped: list[str]
    """Why checkpoints were skipped since a group was last ordered to join."""
    recorded: int
    """The last step that this command has recorded."""
    stored: int
    """The last step whose record is stored."""
    trusted: int
    """The last step that a recheck has passed, or that a group started from after one had."""
    group: dict[int, int]
    """Ranks of the group's workers by number, in rank order."""
    broken: bool
    """Whether the group has broken, and the cause is still to be found."""
    retry_at: float
    """Time before which no other group is formed, because storage does not answer."""
    pausing: Literal["", "regroup", "stop"]
    """Why workers were asked to pause."""
    done_since: float | None
    """Time since which all workers of the group have been done, or have paused."""
    stop_since: float | None
    """Time since which the command shall stop."""
    failure: FoundrayError | None
    """Why the command gives up."""

    def __init__(self, spec: Spec, history: History, resume: str, now: float):
        """`resume` is the command that continues the run, for messages."""
        self.spec, self.world, self.resume, self.now = spec, spec.scale.groups, resume, now
        self.decisions: list[Decision] = []
        self.members = Members(spec.scale.world[1], spec.fault.silence_s, now, self._decide)
        self.commits = Commits(spec.fault.storage_wait_s, spec.pins, self._decide)
        self.log_reads = LogReads(self._decide)
        self.failures = Failures(spec.fault, resume, lambda: self.now)
        # What the run has made so far.
        self.lineage, self.roll_backs = history.lineage, history.roll_backs
        self.checkpoints, self.damaged, self.skipped = list(history.checkpoints), {}, []
        self.recorded, self.stored, self.trusted = 0, 0, history.rechecked
        # The group, and the attempt to form the next one.
        self.stage, self.since = Stage.GATHERING, now
        self.group, self.generation, self.attempt = {}, 0, Attempt(0, now)
        self.broken, self.retry_at = False, 0.0
        self.pausing, self.paused_at, self.done_since = "", 0.0, None
        self.stop_since, self.waiting_reported = None, False
        self.failure = None

    def take(self, events: Iterable[Event], now: float) -> list[Decision]:
        """Take events, and return what follows, to be done in this order. Times are seconds on one monotonic clock.

        Events that arrive together are taken together: each costs the same for any number of workers, and what follows from
        all of them costs a look at each worker.
        """
        self.now, self.decisions = now, []
        for event in events:
            self._try(partial(self._take, event))
        if self.failure is None:
            self._try(self._go_on)
        self.commits.write_next(self.stored, self.now)  # also once the command has ended
        if self.failure and self.stage is not Stage.ENDED:
            self._end(m.GiveUp(str(self.failure), self.failure.exit_status))
        return self.decisions

    def _try(self, call: Callable[[], None]) -> None:
        """Note an error, so that what has happened besides is not lost."""
        try:
            call()
        except FoundrayError as error:
            self.failure = self.failure or error

    def end(self) -> None:
        """Decide nothing more, except that checkpoints are completed."""
        self._enter(Stage.ENDED)

    @property
    def phases(self) -> set[Phase]:
        """The phases of the group's remaining workers."""
        return {member.status.phase for member in self._here()}

    @property
    def calm(self) -> bool:
        """Whether all compute, and nothing is about to change."""
        return self.stage is Stage.COMPUTING and self.phases == {Phase.RUNNING} and not self.pausing

    def _decide(self, decision: Decision) -> None:
        self.decisions.append(decision)

    def _note(self, kind: str, **fields: Any) -> None:
        self._decide(m.Note(kind, fields))

    def _enter(self, stage: Stage) -> None:
        self.stage, self.since = stage, self.now

    def _end(self, decision: Decision) -> None:
        self._enter(Stage.ENDED)
        self._decide(decision)

    # Events

    def _take(self, event: Event) -> None:
        attempt, members = self.attempt, self.members
        match event:
            case m.Heard(number, status) if number in members.of:
                self._hear(number, status)
            case m.Gone(number, reason) if number in members.of:
                members.lose(number, reason, self.now)
            case m.Halted(of, number, status, shards) if number in members.of:
                self._hear(number, status)
                if of == attempt.number and status.phase in m.IDLE and number in members.of:
                    members.of[number].status = replace(status, facts=members.of[number].status.facts)
                    attempt.held[number] = shards
            case m.HandedOver(of, number, shards) if of == attempt.number and number in attempt.handing:
                attempt.receive(number, shards)
            case m.Opened(of, generation, meeting) if of == attempt.number and self.stage is Stage.OPENING:
                attempt.opened = generation, meeting
            case m.NotOpened(of, reason) if of == attempt.number and self.stage is Stage.OPENING:
                self._note("group_not_formed", reason=reason)
                self._halt()
            case _:
                self._take_from_outside(event)

    def _take_from_outside(self, event: Event) -> None:
        """Take what the cluster, storage and the user say."""
        match event:
            case m.Expected(slots, certain, seconds):
                self.members.expect(slots, certain, seconds, self.now)
            case m.SlotsHeld(held, draining, problem):
                self.members.reconcile(held, draining, self.group, self.now)
                if problem and not self.group and not self.members.staying(self.now):
                    raise RunFailed(f"Ray Train gave up: {problem}")
            case m.Recorded(step):
                self.recorded = step
            case m.Stored(step):
                self.stored = step
            case m.Committed(generation, checkpoint):
                self.commits.committed(generation, checkpoint.step)
                self._forget({checkpoint})
                self.checkpoints = sorted([checkpoint, *self.checkpoints], reverse=True)
            case m.NotCommitted(checkpoint, reason):
                self.commits.not_committed(checkpoint.step, reason, self.now)
            case m.Pruned(checkpoints):
                self._forget(checkpoints)
            case m.CutsRead(number, lineage, roll_backs):
                self.log_reads.answer(number)
                self._follow(lineage, roll_backs)
            case m.StopAsked():
                self.stop_since = self.stop_since or self.now
            case m.TakenOver(run):
                raise RunFailed(f"another command has taken over the run {run}")
            case m.Tick():
                self.members.lose_silent(self.now)

    def _hear(self, number: int, status: Status) -> None:
        self.members.hear(number, status, self.now)
        self.attempt.hear(number, self.now)
        if number in self.group and status.generation == self.generation:
            self.commits.take(number, status.written)
            self.trusted = max(self.trusted, status.passed)
        if status.phase is Phase.FAILED:
            raise (InputError if status.exit_status == InputError.exit_status else RunFailed)(status.reason)

    def _forget(self, checkpoints: frozenset[Checkpoint] | set[Checkpoint]) -> None:
        """Forget deleted or replaced checkpoints."""
        names = {one.name for one in checkpoints}
        self.checkpoints = [old for old in self.checkpoints if old.name not in names]
        self.damaged = {name: reason for name, reason in self.damaged.items() if name not in names}

    # Stages

    def _go_on(self) -> None:
        attempt, there = self.attempt, self.members.of
        if self._stops():
            return self._end(m.End("stopped", self.stored_step))
        match self.stage:
            case Stage.GATHERING:
                self._gather()
            case Stage.HALTING if self.now >= self.retry_at and attempt.is_over(there, self._is_enough, self.now):
                if self.broken:
                    self._find_cause()
                if self.now >= self.retry_at and not self._awaits_commit():
                    self._choose()
            case Stage.HANDING_OVER | Stage.OPENING if not there.keys() >= set(attempt.chosen):
                self._halt()
            case Stage.HANDING_OVER if not attempt.handing.keys() & set(there) or self.now - self.since > HALT_SECONDS:
                self._open()
            case Stage.OPENING if attempt.opened:
                self._join(*attempt.opened)
            case Stage.OPENING if self.now - self.since > OPEN_SECONDS:
                self._note("group_not_formed", reason=f"no leases within {OPEN_SECONDS:.0f} s")
                self._halt()
            case Stage.COMPUTING:
                self._compute()

    def _gather(self) -> None:
        """Form a group once there are enough workers, and all that are expected soon."""
        members, ready = self.members, self.members.ready(self.now)
        if len(in_teams(ready, members.of, self.spec.scale)) < self.world[0]:
            return self._wait(len(ready))
        coming = len(members.staying(self.now)) + members.expected(self.now)
        first = min(members.of[number].held_since or 0.0 for number in ready)
        if len(ready) >= max(coming, min(len(members.slots), self.world[1])) or self.now - first > GATHER_SECONDS:
            self._halt()

    def _wait(self, ready: int) -> None:
        """Wait for more workers than the `ready` ones; report that, and give up after too long."""
        waited = self.now - self.since
        if waited > self.spec.fault.wait_s:
            self._end(m.Waiting(ready, waited, give_up=True))
        elif waited > WAITING_REPORT_SECONDS and not self.waiting_reported:
            self.waiting_reported = True
            self._decide(m.Waiting(ready, waited, give_up=False))

    def _stops(self) -> bool:
        """Tell whether to end on request though no group computes: no worker can, none need, or leases do not open in time."""
        if self.stop_since is None or self.broken or self.stage in (Stage.COMPUTING, Stage.ENDED):
            return False
        waited = self.now - self.stop_since
        if self.stage is Stage.GATHERING:
            over = len(in_teams(self.members.ready(self.now), self.members.of, self.spec.scale)) < self.world[0]
        else:
            over = self.recorded <= self.stored_step or waited > OPEN_SECONDS
        return over and (self.commits.idle(self.stored) or waited > self.spec.fault.storage_wait_s)

    def _compute(self) -> None:
        """Act on the phases of the group's workers."""
        here = self._here()
        phases = {member.status.phase for member in here}
        missed = any(self.members.missed_order(member.number, self.now) for member in here)
        if len(here) < len(self.group) or Phase.BROKEN in phases or missed:
            self.broken = True
            self._halt()
        elif phases == {Phase.RUNNING}:
            self.done_since = None
            self._pause_if_due()
        elif phases == {Phase.PAUSED}:
            if self.pausing != "stop" or not here[0].status.saved:
                self._halt()
            elif self._is_stored(here[0].status.done):
                self._end(m.End("stopped", here[0].status.done))
        elif phases == {Phase.FINISHED} and self._is_stored(here[0].status.done):
            self._end(m.End("finished", here[0].status.done))

    def _here(self) -> list[Member]:
        """The group's remaining workers."""
        return [self.members.of[number] for number in self.group if number in self.members.of]

    def _is_stored(self, step: int) -> bool:
        """Tell whether the checkpoint that a command ends with is complete, and no other command has undone it.

        Raises RunFailed after too long.
        """
        written = any(one.step == step for one in self.usable())
        if written and self.log_reads.are_up_to_date():
            return True
        self.done_since = self.done_since or self.now
        if self.now - self.done_since > self.spec.fault.storage_wait_s:
            if written:
                raise RunFailed(f"the run's log could not be read at its end; wait for the storage, then `{self.resume}`")
            raise RunFailed(
                f"the last checkpoint could not be written: {self.commits.problem}; make room, or wait for the storage, then "
                f"`{self.resume}`"
            )
        return False

    def _pause_if_due(self) -> None:
        if self.stop_since is not None:
            self.pausing = "stop"
        elif self._is_regroup_due():
            self.pausing = "regroup"
        if self.pausing and self.now - self.paused_at >= PAUSE_SECONDS:
            self.paused_at = self.now
            self._decide(m.Pause(self.generation, tuple(self.group), self.pausing == "stop"))

    def _is_regroup_due(self) -> bool:
        """Tell whether another group, in whole teams, would be larger, or let workers go that should leave."""
        members, there = self.members.of, self.members.staying(self.now)
        old = [n for n in there if n in self.group]
        new = [n for n in there if n not in self.group and members[n].heard > self.since and members[n].status.phase in m.IDLE]
        size = len(in_teams([*old, *new], members, self.spec.scale))
        return size > len(self.group) or (len(old) < len(self.group) and size >= self.world[0])

    # Forming a group

    def _halt(self) -> None:
        """Begin to form a group: ask all workers to stop what is under way."""
        warm = [n for n, member in self.members.of.items() if member.status.phase is not Phase.WARMING]
        asked = tuple(sorted(warm, key=lambda n: self.group.get(n, len(self.group))))  # the old group first, by rank
        self.attempt = Attempt(self.attempt.number + 1, self.now, asked)
        self.pausing, self.paused_at = "", 0.0
        self._enter(Stage.HALTING)
        self._decide(m.Halt(self.attempt.number, asked))

    def _find_cause(self) -> None:
        """Act on why the group broke: undo a spike or corruption, note a damaged checkpoint, or count a failure."""
        self.broken = False
        statuses = [member.status for member in self._here() if member.status.generation == self.generation]
        if spike := max((status.spike for status in statuses), default=0):
            return self._roll_back(spike)
        skips = self.failures.is_away_too_long and len(self.usable()) > 1  # others in the same storage may answer
        if unreadable := {one.unreadable for one in statuses if one.unreadable and (skips or not one.away)}:
            return self._skip(unreadable)
        # Workers that only lost a connection say so; another may know the cause.
        cause = min((status.reason for status in statuses if status.reason), key=lost_connection, default="a worker was lost")
        self._note("group_broken", step=self.recorded, reason=cause)
        if found := next((status for status in statuses if status.suspects), None):
            self._cordon(found.suspects, found.done)
        self.retry_at = self.now + self.failures.add(self.recorded, cause, any(status.away for status in statuses))

    def _skip(self, unreadable: set[m.Unreadable]) -> None:
        """Use these checkpoints no more in this command."""
        for checkpoint, reason in sorted(unreadable):
            if checkpoint.name not in self.damaged:
                self.damaged[checkpoint.name] = reason
                self.skipped.append(reason)

    def _awaits_commit(self) -> bool:
        """Tell whether the next group can start only from a checkpoint that is about to be completed."""
        whole = any(self.stored_step < step <= self.recorded for step in self.commits.whole(self.lineage))
        return whole and self.now - self.attempt.began < COMMIT_SECONDS and self._source(self.attempt.asked) is None

    def _choose(self) -> None:
        """Choose the next group among the workers that have halted."""
        attempt = self.attempt
        attempt.choose(self.members.of, lambda n: self.members.may_stay(n, self.now), self.group, self.spec.scale)
        if len(attempt.chosen) < self.world[0]:
            self._note("too_few", workers=len(attempt.chosen), needed=self.world[0])
            self.group, self.waiting_reported = {}, False
            return self._enter(Stage.GATHERING)
        attempt.hand_over(self.lineage, self.members.blocks)
        self._enter(Stage.HANDING_OVER)
        for number, shards in attempt.handing.items():
            self._decide(m.HandOver(attempt.number, number, attempt.chosen[0], shards))
        if not attempt.handing:
            self._open()

    def _open(self) -> None:
        for number in self.attempt.leaving:
            if number in self.members.of:
                self.members.leave(number)
        self._enter(Stage.OPENING)
        self.log_reads.ask()  # if the answer comes late, another group is formed
        self._decide(m.Open(self.attempt.number, len(self.attempt.chosen), self.attempt.chosen[0]))

    def _join(self, generation: int, meeting: tuple[str, int] | None) -> None:
        """Order the chosen workers to join, from the newest complete state in their memories or in storage."""
        chosen = self.attempt.chosen
        source: Source | Checkpoint | None = self._source(chosen)
        stored = next(iter(self.usable()), None)
        if stored and (source is None or source.step < stored.step):
            source = stored
        if source is None and (damaged := [reason for name, reason in self.damaged.items() if usable(*name, self.lineage)]):
            raise self.failures.no_checkpoint("; ".join(damaged))
        step = source.step if source else 0
        while self.skipped:
            self._note("checkpoint_skipped", step=step, reason=self.skipped.pop(0), going_on_from=step)
        for number in chosen:
            self.members.order(number, generation)
        self._trust_from(step, chosen)
        self.group = {number: rank for rank, number in enumerate(chosen)}
        self.generation, self.done_since, self.recorded = generation, None, step
        self.log_reads.begin()
        self.commits.begin(generation, self.members.blocks, step, self.lineage)
        self._enter(Stage.COMPUTING)
        failures = self.failures.total
        self._decide(m.Join(self.attempt.number, generation, chosen, meeting, source, self.lineage, self.roll_backs, failures))

    def _trust_from(self, step: int, chosen: tuple[int, ...]) -> None:
        """Note from which step on the work of a group that starts there is unproven."""
        self.trusted = min(self.trusted, step)
        begins = step if self.generation else self.trusted  # who computed before this command is not known
        for member in (self.members.of[number] for number in chosen):
            member.unproven_from = min(begins if member.unproven_from is None else member.unproven_from, step)

    # States

    def _source(self, numbers: tuple[int, ...]) -> Source | None:
        return self.attempt.source(numbers, self.lineage, self.members.blocks)

    def _is_enough(self) -> bool:
        """Tell whether the workers that have halted hold a whole state, or nothing is lost if they do not."""
        if not self.broken and set(self.attempt.missing(self.members.of)) & self.group.keys():
            return False  # it has stopped with the others, and nothing says that it is lost
        return self.recorded <= self.stored_step or self._source(self.attempt.asked) is not None

    def usable(self) -> list[Checkpoint]:
        """The complete checkpoints that no cut has undone and that could be read, newest first."""
        return [one for one in self.checkpoints if usable(*one.name, self.lineage) and one.name not in self.damaged]

    @property
    def stored_step(self) -> int:
        """Step of the newest of these; 0 if there is none."""
        return next((one.step for one in self.usable()), 0)

    # Cuts

    def _undo(self, kind: Literal["rolled_back", "left_out"], to: int, step: int, **fields: Any) -> None:
        """Undo all states after `to`."""
        made = cut(self.lineage, kind, to, step)
        self.lineage = (*self.lineage, made)
        self.recorded, self.trusted = min(self.recorded, to), min(self.trusted, to)
        self._decide(m.Undo(kind, {"step": step, "to": to, "cut": made.id, **fields}, self.lineage))

    def _follow(self, lineage: Lineage, roll_backs: tuple[RollBack, ...]) -> None:
        """Follow the cuts of another command, if any: it has worked until it saw that this one had taken the run over."""
        if not set(lineage) > set(self.lineage):
            return
        known, to = self.lineage, min(one.to for one in lineage if one not in self.lineage)
        self.lineage, self.roll_backs, self.broken = lineage, roll_backs, False  # what broke the group is undone, too
        self.recorded, self.trusted = min(self.recorded, to), min(self.trusted, to)
        self._decide(m.Follow(to, lineage, roll_backs))
        self._note("undone_elsewhere", to=to)
        if lineage[: len(known)] != known:  # what was made under ours since does not follow from the other's
            self.roll_backs = trusted(roll_backs, to)
            self._undo("left_out", to, to, node="", reason="another command had undone it", trusted=to)
        if self.stage is Stage.COMPUTING:
            self._halt()

    def _roll_back(self, spike: int) -> None:
        """Roll back to before a loss spike, to continue with later data. Raises RunFailed after too many roll-backs."""
        if len(self.roll_backs) == MAX_ROLL_BACKS:
            raise RunFailed(
                f"the loss of step {spike} is a spike, and the run has rolled back {MAX_ROLL_BACKS} times: it diverges; "
                "try a lower optimizer.lr, or a higher guard.spike"
            )
        rollback = roll_back(self.roll_backs, spike, self.spec.guard.roll_back or 1)
        self.roll_backs = appended(self.roll_backs, rollback)
        self._undo("rolled_back", step=spike, **rollback.facts())

    def _cordon(self, suspects: tuple[int, ...], done: int) -> None:
        """Leave out workers that compute different bits, and undo what was computed since the last recheck that all passed.

        The group had done `done` steps. Raises RunFailed if no majority shows which bits are right.
        """
        numbers = [n for n, rank in self.group.items() if rank in suspects and n in self.members.of]
        nodes = ", ".join(sorted({self.members.of[number].slot.node for number in numbers}))
        if len(suspects) == len(self.group):
            raise RunFailed(
                f"silent corruption: the nodes {nodes} compute different bits from the same micro-batch, and no majority says "
                f"which is right; check them, then `{self.resume}`"
            )
        unproven = min(self.members.of[number].unproven_from or 0 for number in numbers) if numbers else 0
        step = min(max(self.trusted, unproven), max(0, done))
        to = undone_to(self.roll_backs, step)
        self.roll_backs = trusted(self.roll_backs, step)
        reason = "it computed different bits from the others"
        self._undo("left_out", to, done, node=nodes, reason=reason, trusted=step)
        for number in numbers:
            self.members.cordon(self.members.of[number].slot.node)
            self.members.lose(number, "silent corruption", self.now)
