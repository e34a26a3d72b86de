"""A simulated cluster with one run, and what must hold for it."""

from __future__ import annotations

import random
from collections.abc import Callable
from functools import lru_cache
from typing import Any

from tests.simulation.clock import Broken, Clock
from tests.simulation.driver import Driver
from tests.simulation.model import BLOCKS, Setup, Weights, undisturbed
from tests.simulation.storage import Storage
from tests.simulation.worker import Group, Worker

from foundray.runs.lineage import usable
from foundray.training.elastic.replicas import Replicas
from foundray.training.protocol import messages as m
from foundray.training.protocol.protocol import Protocol
from foundray.training.protocol.states import StateShard, newest_complete
from foundray.training.slots.slot import Slot

LIMIT_SECONDS = 4000.0
"""A history that is not over by then is stuck: its faults end within a minute."""
STOP_SECONDS = 450.0
"""Longest time from a request to stop to the command's end: storage and a silent worker may both have to be waited for."""
RESTARTS = 12
"""Commands after which a history is stuck."""
MOST_STATES = 8
"""States that a worker may hold."""


@lru_cache(256)
def _slot(node: str) -> Slot:
    return Slot(node, (), "workers")


class World:
    make_protocol: Callable[..., Protocol] = Protocol
    make_group = Group
    make_storage = Storage
    make_replicas: type[Replicas[Weights]] = Replicas

    def __init__(self, setup: Setup, nodes: int, seed: int):
        self.setup, self.rng, self.clock = setup, random.Random(seed), Clock()
        self.storage = self.make_storage()
        self.nodes = [f"node-{index}" for index in range(nodes)]
        self.last_node = nodes
        self.draining: set[str] = set()
        self.drivers: list[Driver] = []
        self.commands = 0
        self.finished: Weights | None = None
        self.agreement = True
        """Whether workers agree on step and lineage in each step."""
        self.tainted = False
        """Whether corrupt work was done by a worker that was lost before any recheck: nothing can find that."""
        self.false_spikes: frozenset[int] = frozenset()
        self.partitions: list[tuple[float, str, str]] = []
        """(end, node, node): connections that carry nothing."""
        self.failing_joins = 0
        """Groups that will break while they load their state."""
        self.feeder_until = 0.0
        self.copies_slow_until = 0.0
        self.crash_after: int | None = None
        """Decisions until the command is killed."""
        self.crash_after_undo = False
        self.generations = 0
        self.computed: Group | None = None
        """The last group that made a step."""
        self.counts: dict[str, int] = {}
        """Events noted, by kind."""
        self.known: set[tuple[int, int]] = set()
        """(generation, step) of states known to be whole: those that groups started from, or have in two memories."""
        self.overlapped = False
        """Whether two commands were at work at once."""
        self.resume()

    # Chance

    def draw(self, least: float, most: float) -> float:
        return least + (most - least) * self.rng.random()

    # The cluster

    def slots(self) -> tuple[Slot, ...]:
        return tuple([_slot(node) for node in self.nodes])

    def workers(self) -> list[Worker]:
        return [worker for driver in self.drivers if driver.alive for worker in driver.workers.values() if worker.alive]

    def parted(self, workers: list[Worker]) -> bool:
        """Whether two of the workers cannot reach each other."""
        self.partitions = [one for one in self.partitions if one[0] > self.clock.now]
        nodes = {worker.node for worker in workers}
        return any(one in nodes and other in nodes for _, one, other in self.partitions)

    def cut_s(self, one: str, other: str) -> float:
        """Seconds until packets between two nodes arrive again."""
        ends = [end - self.clock.now for end, *pair in self.partitions if one in pair and other in pair and one != other]
        return max(0.0, *ends) if ends else 0.0

    def hardware(self, node: str) -> str:
        """The kind of a node's device."""
        return f"kind-{int(node.removeprefix('node-')) % self.setup.kinds}"

    def new_node(self) -> None:
        self.last_node += 1
        self.nodes.append(f"node-{self.last_node}")

    def lose_node(self, node: str) -> None:
        if node in self.nodes:
            self.nodes.remove(node)
        self.draining.discard(node)
        for worker in self.workers():
            if worker.node == node:
                worker.die()

    # Commands

    def resume(self) -> None:
        """Start a command, unless one is at work."""
        if self.finished is None and not any(driver.alive for driver in self.drivers):
            self.start()

    def start(self) -> Driver:
        self.commands += 1
        self.overlapped = self.overlapped or any(driver.alive for driver in self.drivers)
        if self.commands > RESTARTS:
            raise Broken(f"the run is not finished after {RESTARTS} commands: {self.drivers[-1].ended}")
        driver = Driver(self)
        self.drivers.append(driver)
        driver.tick(0)
        return driver

    def command_ended(self, decision: m.Decision) -> None:
        if isinstance(decision, m.End) and decision.state == "finished":
            driver = next(d for d in self.drivers if d.ended is decision)
            first = driver.protocol.members.of[next(iter(driver.protocol.group))]
            self.finished = first.status.facts["weights"]
        elif isinstance(decision, m.GiveUp):
            self.heed(decision)
        self.clock.after(self.draw(0.5, 3.0), self.resume)

    def heed(self, decision: m.GiveUp) -> None:
        """The user does what the message says: replaces machines, or deletes damaged checkpoints."""
        if "no majority" in decision.reason:
            self.tainted = True  # what they have computed since the last recheck stays
        elif "once storage answers" in decision.reason or "storage has not answered" in decision.reason:
            self.storage.unanswered.clear()
        elif decision.exit_status == 2:
            for name in self.storage.damaged:
                self.storage.delete(name)

    def crashes_at(self, driver: Driver) -> bool:
        """Tell whether the command is killed before its next decision."""
        if driver is not self.drivers[-1] or self.crash_after is None or self.crash_after_undo:
            return False
        self.crash_after -= 1
        if self.crash_after < 0:
            self.crash_after = None
            return True
        return False

    # What the simulation does on behalf of its parts

    def decided(self, driver: Driver, decision: m.Decision) -> None:
        """A decision is about to be done."""

    def struck(self, fault: object) -> None:
        """A fault strikes."""

    def report(self, worker: Worker) -> None:
        worker.driver.report(worker)

    def hold(self, holder: Worker, shard: StateShard, content: Weights) -> None:
        if holder.alive:
            holder.keep(shard, content)
            if len({(one.generation, one.step) for one in holder.replicas.held}) > MOST_STATES:
                raise Broken(f"worker {holder.number} holds {len(holder.replicas.held)} shards")

    def new_generation(self) -> int:
        self.generations += 1
        return self.generations

    def undone(self, driver: Driver, decision: m.Undo) -> None:
        """Record a cut, which takes a while; the command may be killed right after."""
        self.counts[decision.kind] = self.counts.get(decision.kind, 0) + 1
        self.storage.cut(decision.kind, decision.fields)
        if decision.kind == "left_out":
            for worker in driver.workers.values():
                worker.found = worker.corrupt
        driver.busy_until = self.clock.now + self.draw(0.01, 0.5)
        if self.crash_after_undo:
            self.crash_after_undo, self.crash_after = False, None
            self.clock.after(0.0, driver.die)

    def took(self, driver: Driver, failed: list[str]) -> None:
        """A command has taken events, among them workers' reports that the run cannot continue."""
        if failed and not any(isinstance(one, m.GiveUp) and one.reason in failed for one in driver.decisions):
            raise Broken(f"the command does not end with the error of a worker: {failed}")

    def ends(self, driver: Driver) -> None:
        """A command ends, with its decision: a request to stop was honoured in time."""
        if driver.stop_at is not None and self.clock.now - driver.stop_at > STOP_SECONDS + driver.held_up_s:
            raise Broken(f"{self.clock.now - driver.stop_at:.0f} s passed from the request to stop to {driver.ended}")

    def noted(self, kind: str, fields: dict[str, Any]) -> None:
        self.counts[kind] = self.counts.get(kind, 0) + 1
        if kind == "member_lost" and "it says that it is" in fields["reason"]:
            raise Broken(f"an unknown transition: {fields}")

    def check_teams(self, workers: list[Worker]) -> None:
        """Workers that are ordered to join, by rank, are whole teams of one kind of device each."""
        size = self.setup.team
        teams = [workers[first : first + size] for first in range(0, len(workers), size)]
        if len(teams[-1]) < size or any(len({worker.hardware for worker in team}) > 1 for team in teams):
            raise Broken(f"not teams of {size} of one kind each: {[worker.hardware for worker in workers]}")

    def join_fails(self) -> bool:
        self.failing_joins -= 1
        return self.failing_joins >= 0

    def joined(self, group: Group) -> None:
        """A group has its state: check that it may use it, and that no more is repeated than must be."""
        source, before = group.join.source, self.computed
        if source is not None:
            # A command that another has taken over from may record one more cut, of which that one does not know.
            lineage = group.join.lineage if self.overlapped else self.storage.lineage
            if not usable(source.step, source.made_under, lineage):
                raise Broken(f"a state of step {source.step}, made under {source.made_under!r}, was undone")
        gone = [one for one in group.driver.workers.values() if one.handed_over == group.join.attempt]
        had = {
            index: [shard for shard in worker.offered if self.should_have(shard, group)]
            for index, worker in enumerate([*group.workers, *gone])
        }
        same = before is None or before.made_under == group.made_under  # a cut may undo all that is kept
        if same and (newest := newest_complete(had, BLOCKS)) and newest.step > group.done:
            raise Broken(f"the workers had a whole state of step {newest.step}, and start from step {group.done}: {newest}")
        if not same:  # what no worker keeps by now was dropped for states that the cut has undone since
            kept = {(shard.generation, shard.step) for worker in group.workers for shard in worker.replicas.shards()}
            self.known = {state for state in self.known if state in kept}
        if before is not None and before.driver is group.driver:
            self.check_repeated(before, group)

    def should_have(self, shard: StateShard, group: Group) -> bool:
        """Whether a shard that a worker once had is part of a state that must not be lost."""
        known = (shard.generation, shard.step) in self.known
        return known and usable(shard.step, shard.made_under, group.join.lineage)

    def check_repeated(self, before: Group, group: Group) -> None:
        """After the loss of one worker, only what followed the last replication is repeated."""
        lost = [worker for worker in before.workers if not worker.alive or worker not in group.workers]
        same = before.made_under == group.made_under and before.copied_step and len(before.workers) > 1
        if same and len(lost) <= 1 and before.done - group.done > self.setup.mirror_every:
            raise Broken(f"{before.done - group.done} steps are repeated after the loss of one worker: {group.join.source}")

    def check_end(self) -> None:
        """What must hold once a history is over."""
        if self.finished is None:
            ends = [driver.ended for driver in self.drivers]
            stage = self.drivers[-1].protocol.stage
            raise Broken(f"the run is not finished after {self.clock.now:.0f} s, {stage}: {ends[-3:]}, {self.counts}")
        if self.finished != undisturbed(self.setup) and not self.tainted:
            raise Broken(f"the result is another one than without faults: {self.counts}")
        last = self.drivers[-1]
        if not last.alive and last.starts != last.dismissals + len(last.workers):
            raise Broken(f"{last.starts} workers were started, and {last.dismissals} dismissed of {len(last.workers)}")
        if self.storage.refuses_until == 0.0 and not self.overlapped:
            there = [one for one in self.storage.complete() if usable(one.step, one.made_under, self.storage.lineage)]
            if len(there) > self.setup.keep + 4:
                raise Broken(f"{len(there)} checkpoints are left, and {self.setup.keep} are kept")
        assert len(self.finished) == BLOCKS
