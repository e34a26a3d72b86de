"""Models of two other systems: restarts from a checkpoint, and groups of nodes that each hold the state."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from tests.benchmarks.goodput.costs import Costs
from tests.benchmarks.goodput.outcome import Outcome
from tests.benchmarks.goodput.traces import Change, Trace, node_seconds


class Restarts:
    """All processes start again from the last checkpoint, with the nodes that are there.

    It is taken to be good at it: it needs no fixed number of nodes, and those that have come since take part from the next
    restart. It restarts for them alone if the time that they bring until the next failure is worth it.
    """

    def __init__(self, costs: Costs, trace: Trace, seconds: float):
        self.costs, self.trace, self.seconds = costs, trace, seconds
        self.there: set[str] = set()
        self.group: set[str] = set()
        self.begins, self.base = 0.0, 0
        """Time at which the group begins to compute, and steps done by then."""
        self.restarts = 0

    def run(self) -> Outcome:
        at = 0
        while at < len(self.trace) and self.trace[at].at < self.seconds:
            now = self.trace[at].at
            lost = []
            while at < len(self.trace) and self.trace[at].at == now:
                change = self.trace[at]
                (self.there.add if change.there else self.there.discard)(change.node)
                lost += [change] if not change.there and change.node in self.group else []
                at += 1
            if lost:
                notice = max(self.costs.silence_s if change.silent else self.costs.closed_s for change in lost)
                self._restart(now, now + notice, self._stored(now))
            elif self._worth_it(now):
                self._restart(now, now, self._steps(now))
        useful = self._steps(self.seconds) * self.costs.work_s
        return Outcome(useful, node_seconds(self.trace, self.seconds), counts={"restarts": self.restarts})

    def _restart(self, stopped: float, begins: float, base: int) -> None:
        costs, self.group = self.costs, set(self.there)
        pause = (costs.restart_s if begins else 0.0) + costs.setup(len(self.group)) + (costs.storage_s if base else 0.0)
        self.begins, self.base = begins + pause, base
        self.restarts += 1

    def _worth_it(self, now: float) -> bool:
        if not self.group or now < self.begins:
            return bool(self.there) and not self.group
        return self.costs.worth(len(self.group), len(self.there - self.group), self.costs.restart_s)

    def _step_s(self) -> float:
        delay = 1 + self.costs.checkpoint_block_s / self.costs.interval_s
        return self.costs.step(len(self.group)) * delay

    def _steps(self, now: float) -> int:
        """Steps done by then."""
        return self.base + int(max(0.0, now - self.begins) / self._step_s()) if self.group else self.base

    def _stored(self, now: float) -> int:
        """Steps of the last checkpoint that is written by then."""
        if not self.group:
            return self.base
        each = max(1, math.floor(self.costs.interval_s / self._step_s()))
        return self.base + (self._steps(now - self.costs.storage_s) - self.base) // each * each


@dataclass
class _Group:
    """Nodes that hold the state between them."""

    nodes: set[str] = field(default_factory=set)
    ready: float = math.inf
    """Time at which it can take part."""
    takes_part: bool = False


class ReplicaGroups:
    """Groups of a fixed number of nodes, as torchft's: one that loses a node leaves, and heals from another.

    Each group computes a fixed share of the batch: steps of fewer groups have a smaller batch, and what they compute counts.
    """

    def __init__(self, costs: Costs, trace: Trace, seconds: float):
        self.costs, self.trace, self.seconds = costs, trace, seconds
        self.groups: list[_Group] = []
        self.idle: list[str] = []
        self.now = self.begins = 0.0
        """Time up to which work is counted, and from which all compute again."""
        self.useful = 0.0
        self.quorums = 0

    def run(self) -> Outcome:
        for change in self.trace:
            if change.at >= self.seconds:
                break
            self._pass_until(change.at)
            self._take(change)
        self._pass_until(self.seconds)
        return Outcome(self.useful, node_seconds(self.trace, self.seconds), counts={"quorums": self.quorums})

    def _taking_part(self) -> int:
        return sum(group.takes_part for group in self.groups)

    def _pass_until(self, until: float) -> None:
        """Compute, and let groups join that become ready."""
        while (ready := min((g.ready for g in self.groups if not g.takes_part), default=math.inf)) < until:
            self._compute(max(ready, self.now))
            for group in self.groups:
                group.takes_part = group.takes_part or group.ready <= self.now
            self._quorum(self.now)
        self._compute(until)

    def _compute(self, until: float) -> None:
        seconds = max(0.0, until - max(self.now, self.begins))
        self.useful += seconds * self._taking_part() * self.costs.group_nodes
        self.now = until

    def _quorum(self, now: float) -> None:
        """All groups agree who takes part, and set up a communicator of one rank per group."""
        pause = self.costs.quorum_s + self.costs.setup(self._taking_part())
        self.begins = max(self.begins, now + pause)
        self.quorums += 1

    def _take(self, change: Change) -> None:
        if change.there:
            self.idle.append(change.node)
        elif change.node in self.idle:
            self.idle.remove(change.node)
        else:
            group = next(group for group in self.groups if change.node in group.nodes)
            group.nodes.remove(change.node)
            group.ready = math.inf
            if group.takes_part:
                self._lose(group, change)
        self._fill(change.at)

    def _lose(self, group: _Group, change: Change) -> None:
        """The step under way does not count."""
        computed = max(0.0, change.at - self.begins)
        self.useful -= computed % self.costs.step_s * self._taking_part() * self.costs.group_nodes
        group.takes_part = False
        self._quorum(change.at + (self.costs.timeout_s if change.silent else self.costs.closed_s))

    def _fill(self, now: float) -> None:
        """Give idle nodes to groups that lack some, the fullest first, and make new groups of the rest."""
        size = self.costs.group_nodes
        for group in sorted(self.groups, key=lambda group: -len(group.nodes)):
            if len(group.nodes) < size and len(group.nodes) + len(self.idle) >= size:
                self._complete(group, now)
        while len(self.idle) >= size:
            self.groups.append(_Group())
            self._complete(self.groups[-1], now)

    def _complete(self, group: _Group, now: float) -> None:
        costs, lacking = self.costs, self.costs.group_nodes - len(group.nodes)
        group.nodes |= set(self.idle[:lacking])
        del self.idle[:lacking]
        heal_s = costs.move_s / costs.group_nodes  # each of its nodes receives its part
        group.ready = now + (costs.restart_s if now else 0.0) + costs.setup(costs.group_nodes) + heal_s
