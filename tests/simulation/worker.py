"""Simulated workers and their groups: what `elastic.worker` and `elastic.loop` do, on numbers instead of tensors.

They hold their states in the real `Replicas`.
"""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from tests.simulation.model import BLOCKS, NEW, Weights, gradient, together, updated

from foundray.runs.checkpoints import Checkpoint
from foundray.runs.lineage import under
from foundray.training.elastic.replicas import Replicas
from foundray.training.protocol.messages import Join, Phase, Status, Unreadable, Written
from foundray.training.protocol.states import Source, StateShard, replica_ranks

if TYPE_CHECKING:
    from tests.simulation.driver import Driver
    from tests.simulation.world import World

GATHERING_SECONDS = 15.0
"""Longest wait for each other when workers form a group."""
SILENCE_SECONDS = 600.0
"""Longest wait of a collective for a worker that neither answers nor closes its connection."""
SPREAD = 0.1
"""Seconds within which a closed connection is noticed."""


class File:
    """A shard as its manifest names it."""

    __slots__ = ("file", "generation", "ranges")

    def __init__(self, file: str, start: int, stop: int, generation: int):
        self.file, self.ranges, self.generation = file, [(start, stop)], generation


class Worker:
    def __init__(self, world: World, driver: Driver, number: int, node: str):
        self.world, self.driver, self.number, self.node = world, driver, number, node
        self.hardware = world.hardware(node)
        self.alive = True
        self.frozen_until = self.late_until = 0.0
        """Times until which it does nothing, and until which its answers are late."""
        self.corrupt = self.found = False
        """Whether it computes other bits, and whether that is recorded."""
        self.dies_updated = False
        """Whether it dies between its next update and the exchange of the weights."""
        self.fails = 0
        """Exit status of the error that it is about to meet, if it is."""
        self.unreachable_until = 0.0
        """Time until which calls of it fail."""
        self.replicas: Replicas[Weights] = world.make_replicas(world.setup.roll_back or None)
        self.status = Status()
        self.group: Group | None = None
        self.weights: Weights = NEW
        self.updates = 0
        """Updates of its own blocks, whose content is in `weights`."""
        self.made_by = (0, "")
        """Generation and cut of the state that it holds."""
        self.owned = range(0)
        self.pause, self.save = False, False
        self.had: set[StateShard] = set()
        """All shards that it has ever held."""
        self.offered: set[StateShard] = set()
        """Those that it had when it last halted."""
        self.handed_over = 0
        """The last attempt for which it has handed over state shards."""
        self.fence = 0
        """The last attempt for which it has halted."""
        world.clock.after(world.draw(0.5, 3.0), self.warm)

    @property
    def works(self) -> bool:
        return self.alive and self.frozen_until <= self.world.clock.now

    @property
    def answers(self) -> bool:
        """Whether calls of it do not fail; they may take long."""
        return self.unreachable_until <= self.world.clock.now

    def fail(self) -> None:
        self.leave(phase=Phase.FAILED, reason=f"worker {self.number} has failed", exit_status=self.fails)

    def warm(self) -> None:
        if self.alive and self.fails:
            self.fail()
        elif self.alive:
            self.say(phase=Phase.READY, facts={"blocks": BLOCKS, "hardware": self.hardware})

    def say(self, **changes: Any) -> None:
        """Change the status, and let the driver know."""
        self.status = replace(self.status, version=self.status.version + 1, **changes)
        self.world.report(self)

    # Calls

    def take_part(self, group: Group) -> None:
        if group.join.attempt < self.fence:
            return
        self.pause = self.save = False
        self.status = Status(Phase.RUNNING, self.status.version + 1, group.join.generation)
        group.arrive(self)

    def halt(self, attempt: int) -> tuple[Status, tuple[StateShard, ...]]:
        self.fence = max(self.fence, attempt)
        if self.group and self.status.phase is Phase.RUNNING:
            group = self.group
            group.fail("aborted", by=self)
            group.broken(self, "aborted")  # if it had failed before, and this worker has not found out yet
        self.offered = set(self.had)
        return self.status, tuple(self.replicas.shards())

    def request_pause(self, generation: int, save: bool) -> None:
        if generation == self.status.generation:
            self.pause, self.save = True, self.save or save

    # States

    def shard(self) -> StateShard:
        generation, made_under = self.made_by
        return StateShard(self.updates, generation, self.owned.start, self.owned.stop, (), made_under)

    def content(self) -> Weights:
        return self.weights[self.owned.start : self.owned.stop]

    def keep(self, shard: StateShard, content: Weights, own: bool = False) -> None:
        self.had.add(shard)
        self.replicas.keep(shard, content, own)

    def leave(self, **changes: Any) -> None:
        """Keep the live shard, and say why the group has ended."""
        if self.updates:
            self.keep(self.shard(), self.content(), own=True)
        self.group = None
        self.say(**changes)

    def die(self) -> None:
        if self.alive:
            self.alive = False
            if self.corrupt and not self.found:
                self.world.tainted = True
            if self.group:
                self.group.fail("closed by peer")
            self.driver.lost(self)


class Group:
    """Workers that were ordered to join."""

    def __init__(self, world: World, driver: Driver, join: Join, workers: list[Worker]):
        self.world, self.driver, self.join, self.workers = world, driver, join, workers
        self.here: list[Worker] = []
        self.met = self.over = False
        self.done = 0
        self.copied_at = 0.0
        """Time by which the last replication has arrived."""
        self.copied_step = 0
        self.offset, self.until = 0, world.setup.steps
        self.made_under = under(join.lineage)
        self.stuck_since: float | None = None
        world.clock.after(GATHERING_SECONDS, self.check_gathered)

    # Joining

    def arrive(self, worker: Worker) -> None:
        worker.group = self
        self.here.append(worker)
        if self.over:  # the others have left again
            self.world.clock.after(SPREAD, self.broken, worker, "closed by peer")
        elif len(self.here) == len(self.workers):
            self.world.clock.after(self.world.draw(0.02, 0.3), self.restore)

    def check_gathered(self) -> None:
        """Break if some have not come, or cannot reach each other: connecting has a limit."""
        if not self.met:
            self.fail("timed out")

    def restore(self) -> None:
        """Load the state; some may have it when another is lost."""
        if self.over or self.waits(self.restore):
            return
        self.met = True
        source = self.join.source
        if isinstance(source, Checkpoint) and self.world.storage.away_until > self.world.clock.now:
            wait = min(self.world.storage.away_until - self.world.clock.now, 120.0)
            return self.world.clock.after(wait + 0.01, self.restore_again)
        if isinstance(source, Checkpoint) and source.name in self.world.storage.unanswered:
            return self.world.clock.after(120.0, self.restore_again)
        self.load(source)

    def restore_again(self) -> None:
        source, storage = self.join.source, self.world.storage
        assert isinstance(source, Checkpoint)
        if not self.over and (storage.away_until > self.world.clock.now or source.name in storage.unanswered):
            return self.fail("storage is away", away=True, unreadable=Unreadable(source, "it does not answer"))
        self.restore()

    def load(self, source: Source | Checkpoint | None) -> None:
        lost = [worker for worker in self.workers if not worker.alive]
        fails = bool(lost) or self.world.join_fails()
        state = {"from": NEW} if source is None else {}
        if isinstance(source, Checkpoint):
            loaded = self.world.storage.load(source)
            if isinstance(loaded, str):
                return self.fail(loaded, unreadable=Unreadable(source, loaded))
            state["from"] = loaded
        elif isinstance(source, Source):
            for worker in self.workers:
                worker.replicas.start_from(source.state, self.join.lineage)
            self.world.known.add(source.state)
            blocks: dict[int, int] = {}
            for holder, shard in source.shards:
                blocks.update(enumerate(self.workers[holder].replicas.get(shard), shard.start))
            state["from"] = tuple(blocks[index] for index in range(BLOCKS))
        self.done = source.step if source else 0
        bounds = [BLOCKS * rank // len(self.workers) for rank in range(len(self.workers) + 1)]
        for worker, (start, stop) in zip(self.workers, pairwise(bounds), strict=True):
            if worker.alive and not (fails and self.world.rng.random() < 0.5):
                worker.weights, worker.updates, worker.owned = state["from"], self.done, range(start, stop)
                worker.made_by = (self.join.generation, self.made_under)
        if fails:
            return self.fail("closed by peer")
        setup = self.world.setup
        self.offset, self.until = setup.offset(self.join.roll_backs, self.done), setup.until(self.join.roll_backs, self.done)
        self.world.joined(self)
        self.driver.record(self.done)
        if self.done:
            self.replicate()
        self.world.clock.after(
            0.0 if self.done == self.until else self.world.draw(1.0, 2.0) * self.world.setup.step_s, self.step
        )

    # Steps

    def waits(self, again: Any) -> bool:
        """Tell whether a worker hangs, and look again later."""
        now = self.world.clock.now
        hangs = any(worker.alive and worker.frozen_until > now for worker in self.workers) or self.world.parted(self.workers)
        if not hangs:
            self.stuck_since = None
            return False
        self.stuck_since = self.stuck_since or now
        if now - self.stuck_since > SILENCE_SECONDS:
            self.fail("timed out")
        else:
            self.world.clock.after(0.2 if now - self.stuck_since < 5 else 5.0, again)
        return True

    def step(self) -> None:
        if self.over:
            return
        if any(not worker.alive for worker in self.workers):
            return self.fail("closed by peer")
        if self.waits(self.step):
            return
        if failing := next((worker for worker in self.workers if worker.fails), None):
            failing.fail()
            return self.fail("closed by peer")
        if self.done == self.until:
            return self.end()
        if self.copied_at > self.world.clock.now:  # this step does not count before the copies have arrived
            return self.world.clock.after(self.copied_at - self.world.clock.now + 0.001, self.step)
        if self.world.agreement and len({(w.updates, w.made_by[1], w.made_by[0]) for w in self.workers}) > 1:
            return self.fail("they disagree on step and lineage")
        if self.is_stopped_by_guard():
            return
        self.update()

    def is_stopped_by_guard(self) -> bool:
        setup, data = self.world.setup, self.done + self.offset
        corrupt = [rank for rank, worker in enumerate(self.workers) if worker.corrupt]
        spike = data in setup.spikes or (bool(corrupt) and data in self.world.false_spikes)
        if setup.recheck_every and (self.done + 1) % setup.recheck_every == 0 and len(self.workers) > 1 and corrupt:
            odd = corrupt if 2 * len(corrupt) < len(self.workers) else list(range(len(self.workers)))
            self.fail("they compute different bits", suspects=tuple(odd), done=self.done)
            return True
        if spike and setup.roll_back:
            self.fail("a spike", spike=self.done + 1)
            return True
        return False

    def update(self) -> None:
        data = self.done + self.offset
        gradients = {gradient(worker.weights) + (worker.number if worker.corrupt else 0) for worker in self.workers}
        combined = together(gradients)
        parts = [updated(worker.weights, data, combined)[worker.owned.start : worker.owned.stop] for worker in self.workers]
        for worker, part in zip(self.workers, parts, strict=True):
            worker.updates = self.done + 1
            worker.weights = worker.weights[: worker.owned.start] + part + worker.weights[worker.owned.stop :]
        if dying := [worker for worker in self.workers if worker.dies_updated]:
            return dying[0].die()
        whole = tuple(block for part in parts for block in part)
        for worker in self.workers:
            worker.weights = whole
        self.done += 1
        self.world.computed = self
        if self.copied_step or len(self.workers) == 1:
            for worker in self.workers:
                worker.replicas.whole((self.join.generation, self.copied_step) if len(self.workers) > 1 else None)
            self.world.known.add((self.join.generation, self.copied_step))
        every = self.world.setup.recheck_every
        passed = every > 0 and self.done % every == 0 and len(self.workers) > 1
        if passed:
            for worker in self.workers:
                worker.status = replace(worker.status, passed=self.done)
        self.driver.record(self.done, passed)
        self.after_step()

    def after_step(self) -> None:
        setup, last = self.world.setup, self.done == self.world.setup.steps
        pauses = any(worker.pause for worker in self.workers) and not last
        saves = pauses and any(worker.save for worker in self.workers)
        if last or saves or self.done % setup.checkpoint_every == 0:
            for worker in self.workers:
                self.write(worker, last or saves)
        if pauses:
            return self.finish(Phase.PAUSED, done=self.done, saved=saves)
        if last or self.done % setup.mirror_every == 0 or (setup.roll_back and self.done % setup.roll_back == 0):
            self.replicate()
        self.world.clock.after(self.world.draw(1.0, 2.0) * self.world.setup.step_s, self.step)

    def replicate(self) -> None:
        """Keep each worker's shard, and copy it to its replica's holder while the next step runs."""
        self.copied_step = self.done
        holders = replica_ranks([worker.node for worker in self.workers])
        for worker, holder in zip(self.workers, holders, strict=True):
            shard, content = worker.shard(), worker.content()
            worker.keep(shard, content, own=True)
            if holder is not None:
                slow = self.world.copies_slow_until > self.world.clock.now
                seconds = self.world.draw(1.0, 3.0) if slow else self.world.draw(0.01, 0.2)
                self.copied_at = max(self.copied_at, self.world.clock.now + seconds)
                self.world.clock.after(seconds, self.deliver, worker, self.workers[holder], shard, content)

    def deliver(self, worker: Worker, holder: Worker, shard: StateShard, content: Weights) -> None:
        """Give a worker's copy to its holder, once packets go between their nodes."""
        if wait := self.world.cut_s(worker.node, holder.node):
            self.copied_at = max(self.copied_at, self.world.clock.now + wait + 0.01)
            return self.world.clock.after(wait + 0.01, self.deliver, worker, holder, shard, content)
        self.world.hold(holder, shard, content)

    def write(self, worker: Worker, last: bool) -> None:
        """Write a worker's shard of a checkpoint, in its thread."""
        name = (self.done, self.made_under)
        file = f"{worker.owned.start}-{worker.owned.stop}"
        part = (name, file, worker.owned.start, worker.content(), self.join.generation)
        self.world.clock.after(self.world.draw(0.02, 0.4) + self.world.storage.slow_s, self.written, worker, part, last, 240)

    def written(self, worker: Worker, part: Any, last: bool, attempts: int) -> None:
        name, file, start, content, generation = part
        if not worker.works:
            if worker.alive:
                self.world.clock.after(1.0, self.written, worker, part, last, attempts)
            return
        outcome: Any = (File(file, start, start + len(content), generation),)
        if self.world.storage.away_until > self.world.clock.now:
            if last and attempts:
                return self.world.clock.after(0.5, self.written, worker, part, last, attempts - 1)
            outcome = "503"
        else:
            self.world.storage.write(name, file, start, content)
        if worker.status.generation == generation:
            new = Written(generation, name[0], name[1], outcome, 0.1)
            worker.say(written=(*worker.status.written[-8:], new))

    # Endings

    def end(self) -> None:
        if self.done == self.world.setup.steps:
            sha = {"weights": self.workers[0].weights}
            return self.finish(Phase.FINISHED, done=self.done, facts=sha)
        self.finish(Phase.PAUSED, done=self.done)

    def finish(self, phase: Phase, **changes: Any) -> None:
        self.over = True
        for worker in self.workers:
            worker.leave(phase=phase, **changes)

    def fail(self, reason: str, by: Worker | None = None, **changes: Any) -> None:
        """Break: each worker that is there leaves, those that are not the cause a moment later."""
        if self.over:
            return
        self.over = True
        for worker in self.here:
            if worker is by or changes:
                self.broken(worker, reason, **changes)
            elif worker.alive:
                self.world.clock.after(self.world.draw(0.0, SPREAD), self.broken, worker, reason)

    def broken(self, worker: Worker, reason: str, **changes: Any) -> None:
        if not worker.alive or worker.group is not self:
            return
        if not worker.works:
            return self.world.clock.after(worker.frozen_until - self.world.clock.now + 0.01, self.broken, worker, reason)
        worker.leave(phase=Phase.BROKEN, reason=reason, **changes)
