"""An attempt to form a group: who was asked to halt, who has answered with which state, and who is chosen."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field

from foundray.runs.lineage import Lineage, usable
from foundray.spec.running import ScaleConfig
from foundray.training.protocol.members import Member
from foundray.training.protocol.states import Source, StateShard, newest_complete
from foundray.training.protocol.teams import in_teams

GRACE_SECONDS, PROBE_SECONDS = 0.1, 0.7
"""A worker that gives no sign of life for twice as long as the slowest answer took is left out, if it is not needed: after the
first of these times at the earliest, and after the second at the latest.
"""
HALT_SECONDS = 65.0
"""Limit for a living worker to leave its group (it finishes its micro-batch), or to hand over its state."""


@dataclass
class Attempt:
    number: int
    began: float
    asked: tuple[int, ...] = ()
    """Workers asked to halt; those of the old group first, so that they keep their order."""
    held: dict[int, tuple[StateShard, ...]] = field(default_factory=dict)
    """State shards of the workers that have halted."""
    answered_s: float = 0.0
    """Seconds that the slowest sign of life took."""
    chosen: tuple[int, ...] = ()
    """Workers of the next group, by rank."""
    opened: tuple[int, tuple[str, int] | None] | None = None
    """Generation of the leases that are open, and the place to meet."""
    leaving: tuple[int, ...] = ()
    """Workers of the old group that do not stay."""
    handing: dict[int, tuple[StateShard, ...]] = field(default_factory=dict)
    """Workers that are not chosen and still have to hand over shards of the newest complete state, with these."""

    def __post_init__(self) -> None:
        self.were_asked = frozenset(self.asked)  # a sign of life costs the same for any number of workers

    def hear(self, number: int, now: float) -> None:
        """Note a sign of life."""
        if number in self.were_asked:
            self.answered_s = max(self.answered_s, now - self.began)

    def missing(self, members: Mapping[int, Member]) -> list[int]:
        """Workers that have not answered, and are not known to be lost."""
        return [number for number in self.asked if number in members and number not in self.held]

    def is_over(self, members: Mapping[int, Member], is_enough: Callable[[], bool], now: float) -> bool:
        """Tell whether no other answer is worth waiting for: all are there, or the rest is silent, and what is there is enough.

        A silent worker is lost at last, and then no answer of it is missing.
        """
        missing, waited = self.missing(members), now - self.began
        if not missing or waited >= HALT_SECONDS:
            return True
        if any(members[n].heard > self.began for n in missing):
            return False
        return waited >= min(max(GRACE_SECONDS, 2 * self.answered_s), PROBE_SECONDS) and is_enough()

    def choose(
        self, members: Mapping[int, Member], may_stay: Callable[[int], bool], group: Collection[int], scale: ScaleConfig
    ) -> None:
        """Choose among the workers that have halted, in whole teams; old ones of `group` that do not stay have to leave."""
        there = [n for n in self.asked if n in self.held and n in members]
        staying = [n for n in there if may_stay(n)]
        # A worker on a draining node continues if the run would otherwise stop.
        drained = [n for n in there if n in group and not may_stay(n)]
        fewest = scale.groups[0]
        needed = max(0, fewest - len(staying))
        staying += drained[:needed]
        while len(in_teams(staying, members, scale)) < fewest and needed < len(drained):  # some are left over by teams
            staying.append(drained[needed])
            needed += 1
        self.chosen = tuple(in_teams(staying, members, scale))
        self.leaving = tuple(sorted(n for n in drained if n not in self.chosen))

    def hand_over(self, lineage: Lineage, blocks: int) -> None:
        """Find what those that are not chosen hold of the newest complete state, unless the chosen ones hold all of it.

        That may be replicas of a lost worker, too, and the holder may be a spare worker.
        """
        numbers = (*self.chosen, *(n for n in self.held if n not in self.chosen))
        newest, kept = self.source(numbers, lineage, blocks), self.source(self.chosen, lineage, blocks)
        for rank, shard in newest.shards if newest and (kept is None or kept.state != newest.state) else ():
            if (number := numbers[rank]) not in self.chosen:
                held = next(one for one in self.held[number] if one == shard)  # with the spike guard's window
                self.handing[number] = (*self.handing.get(number, ()), held)

    def receive(self, number: int, shards: tuple[StateShard, ...]) -> None:
        """Take the shards that a worker has copied to the first one chosen."""
        del self.handing[number]
        self.held[self.chosen[0]] = (*self.held[self.chosen[0]], *shards)

    def source(self, numbers: tuple[int, ...], lineage: Lineage, blocks: int) -> Source | None:
        """The newest complete state that these workers hold and no cut has undone, with holders by rank."""
        held = {
            rank: [shard for shard in self.held.get(n, ()) if usable(shard.step, shard.made_under, lineage)]
            for rank, n in enumerate(numbers)
        }
        return newest_complete(held, blocks) if any(held.values()) else None
