"""The workers: one in each slot that Ray Train holds, from its start to its loss."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass, field, replace
from typing import Any

from foundray.training.protocol.messages import IDLE, TRANSITIONS, Decision, Dismiss, Note, Phase, Start, Status
from foundray.training.slots.slot import Slot

CORDON_SECONDS = 10.0
"""A node where a worker could not start gets no new one for this long."""
CLAIM_SECONDS, EXPECTED_SECONDS = 5.0, 180.0
"""A worker started before its slot was held is dismissed this long after the first slot is held, if its own is not; and after
the longer time if no slot is held, because others may have taken them all.
"""
SLOT_LOST_SECONDS = 90.0
"""A worker is released once Ray Train has not held its slot for this long."""
ORDER_SECONDS = 10.0
"""A worker that has answered as before its order for so long did not get it: an answer on its way is seconds old at most."""
NEVER = float("inf")


@dataclass
class Member:
    """A worker, as the protocol knows it."""

    number: int
    slot: Slot
    started: float
    heard: float
    """Time of its last sign of life."""
    status: Status = field(default_factory=Status)
    held_since: float | None = None
    """Time since which its slot has been held, or certain to be; None if it is only expected."""
    claim_until: float | None = None
    """Time by which its expected slot has to be held, if not that of all."""
    lost_since: float | None = None
    """Time since which its slot has not been held."""
    behind_since: float | None = None
    """Time since which it answers as if it had not got its last order; None if it has, or has not answered since."""
    unproven_from: int | None = None
    """The step at which it first took part: its later steps are not trusted until a recheck passes. None if it has not yet."""
    left: bool = False
    """Whether it has handed over its state and leaves."""

    @property
    def hardware(self) -> str:
        """The name of its device's kind, once it is ready."""
        return str(self.status.facts.get("hardware", ""))


class Members:
    def __init__(self, most: int, silence_s: float, now: float, decide: Callable[[Decision], None]):
        """At most `most` workers stay; one that is silent for `silence_s` seconds is lost."""
        self.most, self.silence_s, self.decide = most, silence_s, decide
        self.of: dict[int, Member] = {}
        """Workers by number, in the order in which they started."""
        self.slots: tuple[Slot, ...] = ()
        self.draining: frozenset[str] = frozenset()
        self.cordoned: dict[str, float] = {}
        """Nodes, and the time until which no worker starts there."""
        self.last_number = 0
        self.blocks, self.parameters = 0, list[Any]()
        """The model's blocks and parameters, which every worker reports once it is ready."""
        self.claims_end = now + EXPECTED_SECONDS
        """Time by which an expected slot has to be held."""

    # What workers say

    def hear(self, number: int, status: Status, now: float) -> None:
        """Take a worker's status. One that is known, or from before its last order, is only a sign of life."""
        member = self.of[number]
        member.heard = now
        old = member.status
        if status.generation < old.generation:
            member.behind_since = now if member.behind_since is None else member.behind_since
            return
        if status.version <= old.version:
            return
        member.behind_since = None
        if status.phase is not old.phase:
            if status.phase not in TRANSITIONS[old.phase]:
                return self.lose(number, f"it says that it is {status.phase} after {old.phase}", now)
            if status.phase is Phase.READY:
                self.blocks, self.parameters = status.facts["blocks"], status.facts.get("parameters", [])
                self.decide(Note("member_ready", {"member": number, "seconds": round(now - member.started, 3)}))
        member.status = replace(status, facts={**old.facts, **status.facts}) if old.facts else status

    def order(self, number: int, generation: int) -> None:
        """Note that a worker was ordered to join a group."""
        member = self.of[number]
        assert member.status.phase in IDLE, member
        member.status, member.left = Status(Phase.RUNNING, -1, generation, facts=member.status.facts), False
        member.behind_since = None

    def missed_order(self, number: int, now: float) -> bool:
        """Tell whether a worker still answers as before its last order: the call did not arrive."""
        member = self.of[number]
        return member.behind_since is not None and now - member.behind_since > ORDER_SECONDS

    def leave(self, number: int) -> None:
        """Record that a worker leaves, which is no loss."""
        if not (member := self.of[number]).left:
            member.left = True
            self.decide(Note("member_left", {"member": number, "node": member.slot.node}))

    def lose(self, number: int, reason: str, now: float) -> None:
        """Dismiss a worker and record its loss."""
        member = self.of[number]
        self.decide(Note("member_lost", {"member": number, "node": member.slot.node, "reason": reason}))
        if member.status.phase is Phase.WARMING:  # Ray Train may not know yet that the node is gone
            self.cordon(member.slot.node, now + CORDON_SECONDS)
        self._dismiss(number)

    def lose_silent(self, now: float) -> None:
        for member in list(self.of.values()):
            if member.status.phase is not Phase.WARMING and now - member.heard > self.silence_s:
                self.lose(member.number, f"it has not answered for {self.silence_s:.0f} s", now)

    def cordon(self, node: str, until: float = NEVER) -> None:
        self.cordoned[node] = max(until, self.cordoned.get(node, 0.0))

    def _dismiss(self, number: int) -> None:
        del self.of[number]
        self.decide(Dismiss(number))

    # Slots

    def expect(self, slots: Iterable[Slot], certain: bool, seconds: float | None, now: float) -> None:
        """Start workers in slots that Ray Train will most likely hold, within so many seconds if these are given."""
        for slot in slots:
            member = self._start(slot, now)
            member.held_since, member.claim_until = now if certain else None, None if seconds is None else now + seconds

    def reconcile(self, slots: tuple[Slot, ...], draining: frozenset[str], group: Collection[int], now: float) -> None:
        """Keep one worker per slot. A worker outside the group is released if its slot is long lost or its node drains."""
        # Once the first slots are held, the others have a little time to follow.
        if slots and not self.slots:
            self.claims_end = min(self.claims_end, now + CLAIM_SECONDS)
            for member in self.of.values():
                member.lost_since = None
        self.slots, self.draining = slots, draining
        vacant = Counter(slots)
        for member in list(self.of.values()):
            vacant[member.slot] -= 1
            self._match(member, vacant[member.slot] >= 0, member.number in group, now)
        # Start a worker in each vacant slot of a usable node.
        room = self.most - sum(member.slot.node not in draining for member in self.of.values())
        for slot in slots:
            usable = slot.node not in draining and self.cordoned.get(slot.node, 0.0) <= now
            if vacant[slot] > 0 and usable and room > 0:
                vacant[slot], room = vacant[slot] - 1, room - 1
                self._start(slot, now).held_since = now

    def _match(self, member: Member, held: bool, computes: bool, now: float) -> None:
        """Note whether a worker's slot is held, and release the worker if it should go."""
        if held and member.held_since is None:
            member.held_since = now
        if self._claim_expired(member, now):
            return self._dismiss(member.number)
        member.lost_since = None if held else (member.lost_since or now)
        drains = member.slot.node in self.draining
        if computes or member.status.phase is Phase.WARMING or not (drains or self._slot_is_lost(member, now)):
            return
        if member.left:  # recorded already, and no loss
            self._dismiss(member.number)
        else:
            self.lose(member.number, "its node is draining" if drains else "its slot is gone", now)

    def _slot_is_lost(self, member: Member, now: float) -> bool:
        # While Ray Train resizes its group it holds no slot at all, which means nothing.
        return bool(self.slots) and member.lost_since is not None and now - member.lost_since > SLOT_LOST_SECONDS

    def _start(self, slot: Slot, now: float) -> Member:
        self.last_number += 1
        member = self.of[self.last_number] = Member(self.last_number, slot, now, now)
        self.decide(Start(member.number, slot))
        return member

    # Who may compute

    def may_stay(self, number: int, now: float) -> bool:
        """Tell whether the worker's node stays and its slot is held."""
        member = self.of[number]
        return member.held_since is not None and member.slot.node not in self.draining and not self._slot_is_lost(member, now)

    def staying(self, now: float) -> list[int]:
        return [number for number in self.of if self.may_stay(number, now)]

    def ready(self, now: float) -> list[int]:
        """Workers that could form a group."""
        return [number for number in self.staying(now) if self.of[number].status.phase is not Phase.WARMING]

    def expected(self, now: float) -> int:
        """Number of workers whose slots may be held at any moment."""
        return sum(member.held_since is None and not self._claim_expired(member, now) for member in self.of.values())

    def _claim_expired(self, member: Member, now: float) -> bool:
        return member.held_since is None and now > (member.claim_until or self.claims_end)
