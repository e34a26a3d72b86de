"""The crew: one member in each place that Ray Train holds, as the conductor knows them."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import ray
from ray.exceptions import RayError

from foundray.cluster.connect import draining_nodes, free_resources, node_memory, node_name, whole_nodes
from foundray.errors import InputError, RunFailed
from foundray.model.flops import known_peak
from foundray.spec import Spec
from foundray.training.elastic.messages import KIND, Status, Work
from foundray.training.elastic.prestart import Prestarted, certain_slots, start_worker
from foundray.training.slots.board import Slot

LISTEN_SECONDS, CALM_SECONDS = 0.1, 0.5
"""Longest waits for members' news: while a group is formed or ends, and while it computes."""
SHUN_SECONDS = 10.0
"""For so long no member is started on a node where one could not start."""
CLAIM_SECONDS, FORESEEN_SECONDS = 5.0, 180.0
"""A member that was started before its place was held is let go so long after the first place is, if its own is not; and
after the longer time where none is held, for somebody else may have taken them all."""
FORSAKEN_SECONDS = 90.0
"""A member whose place Ray Train holds no more for so long is let go."""


@dataclass
class KnownWorker:
    """A member, as the conductor knows it."""

    handle: Any
    place: Slot
    number: int
    watch: Any
    """The call that will bring the member's next status."""
    node: str
    """Its node's name, for people."""
    status: Status = field(default_factory=Status)
    started: float = field(default_factory=time.monotonic)
    heard: float = field(default_factory=time.monotonic)
    """When it last answered."""
    placed: float | None = None
    """Since when its place has been held, or is certain to be; None where that is only foreseen."""
    left: bool = False
    """Whether it has handed its state over, and goes."""
    forsaken: float | None = None
    """Since when nobody holds its place."""


class WorkerPool:
    def __init__(self, work: Work, spec: Spec, note: Callable[..., None], ahead: Prestarted | None = None):
        """A member that says nothing for `fault.silence_s` is lost: they answer every second.

        `ahead` holds members that are started already: nobody else can take the places that they are in.
        """
        self.work, self.most, self.silence, self.note = work, spec.scale.world[1], spec.fault.silence_s, note
        self.pools, self.ahead = spec.scale.all_pools, ahead
        self.members: dict[int, KnownWorker] = {}
        """By number, in the order in which they were started."""
        self.places: list[Slot] = []
        self.draining: set[str] = set()
        """Nodes that were told to go."""
        self.shunned: dict[str, float] = {}
        """Nodes, and until when no member is started there."""
        self.numbers = 0
        self.claimed_by = time.monotonic() + FORESEEN_SECONDS
        """Until when a place that is foreseen has to be held."""

    def prefetch(self) -> None:
        """Start members where Ray Train will find places, so that they warm up while it does."""
        for place in certain_slots(self.pools, whole_nodes() if self.ahead else free_resources()):
            self._start_member(place)
            if self.ahead:
                self.members[self.numbers].placed = time.monotonic()
        if self.ahead:
            self.ahead.close()
            self.ahead = None

    def listen(self, seconds: float) -> None:
        """Take in what members tell, waiting `seconds` for it at most. Raises InputError or RunFailed where one says so."""
        watches = {known.watch: known for known in self.members.values()}
        if not watches:
            return time.sleep(seconds)
        if ray.wait(list(watches), num_returns=1, timeout=seconds)[0]:
            for answered in ray.wait(list(watches), num_returns=len(watches), timeout=0)[0]:
                known = watches[answered]
                try:
                    self._hear(known, ray.get(answered))
                except RayError as error:  # its process or its node is gone, or was before it could start
                    self.lose(known, type(error).__name__)
        for known in list(self.members.values()):
            if known.status.phase != "warming" and time.monotonic() - known.heard > self.silence:
                self.lose(known, f"it has not answered for {self.silence:.0f} s")

    def _hear(self, known: KnownWorker, status: Status) -> None:
        if status.phase == "ready" and known.status.phase == "warming":
            seconds = round(time.monotonic() - known.started, 3)
            where = {"node": known.node, "node_id": known.place.node}
            self.note("member_ready", member=known.number, **where, seconds=seconds, **_short(status.facts))
        known.heard = time.monotonic()
        facts = known.status.facts | status.facts
        known.status = status
        known.status.facts.update(facts)
        known.watch = known.handle.watch.remote(status.version)
        if status.phase == "failed":
            kind = InputError if status.exit_status == InputError.exit_status else RunFailed
            raise kind(status.reason)

    def lose(self, known: KnownWorker, reason: str) -> None:
        """Do without a member from now on."""
        self.note("member_lost", member=known.number, node=known.node, reason=reason)
        if known.status.phase == "warming":  # Ray Train may not know yet that the node is gone
            self.shunned[known.place.node] = time.monotonic() + SHUN_SECONDS
        self._dismiss(known)

    def _dismiss(self, known: KnownWorker) -> None:
        self.members.pop(known.number, None)
        with suppress(RayError):
            ray.kill(known.handle)

    def tend(self, places: list[Slot], group: list[int]) -> None:
        """One member for each place; one outside the group, without a place for long or on a draining node, is let go."""
        if places and not self.places:
            self.claimed_by = min(self.claimed_by, time.monotonic() + CLAIM_SECONDS)
            for known in self.members.values():
                known.forsaken = None
        self.places, self.draining = places, draining_nodes()
        held = Counter(places)
        for known in list(self.members.values()):
            held[known.place] -= 1
            if known.placed is None and held[known.place] >= 0:
                known.placed = time.monotonic()
            if known.placed is None and self._claims_are_over():
                self._dismiss(known)
                continue
            known.forsaken = None if held[known.place] >= 0 else (known.forsaken or time.monotonic())
            idle = known.number not in group
            if idle and (self._forsaken(known) or known.place.node in self.draining) and known.status.phase != "warming":
                if known.left:  # which is on record, and is no loss
                    self._dismiss(known)
                else:
                    self.lose(known, "its node is draining" if known.place.node in self.draining else "its place is gone")
        staying = sum(known.place.node not in self.draining for known in self.members.values())
        for place in places:
            shunned = self.shunned.get(place.node, 0) > time.monotonic() or place.node in self.draining
            if held[place] > 0 and not shunned and staying < self.most:
                held[place] -= 1
                staying += 1
                self._start_member(place)

    def _forsaken(self, known: KnownWorker) -> bool:
        # While Ray Train rearranges its group no place is held at all, and that says nothing.
        return bool(self.places) and known.forsaken is not None and time.monotonic() - known.forsaken > FORSAKEN_SECONDS

    def _start_member(self, place: Slot) -> None:
        self.numbers += 1
        handle = (self.ahead.take(place) if self.ahead else None) or start_worker(place)
        handle.begin.remote(self.work)
        self.members[self.numbers] = KnownWorker(handle, place, self.numbers, handle.watch.remote(0), node_name(place.node))

    def may_stay(self, known: KnownWorker) -> bool:
        """Whether the member's node is not going, and its place is held."""
        return known.placed is not None and known.place.node not in self.draining and not self._forsaken(known)

    def awaited(self) -> int:
        """Members whose places are foreseen, and may be held any moment."""
        return 0 if self._claims_are_over() else sum(known.placed is None for known in self.members.values())

    def _claims_are_over(self) -> bool:
        return time.monotonic() > self.claimed_by

    def room(self, members: list[KnownWorker]) -> list[float]:
        """Bytes that each has for its shard: free on its GPU once the model is there, or its part of its node's memory."""
        on_node = Counter(known.place.node for known in self.members.values())
        of_node = node_memory()
        return [
            known.status.facts["free_bytes"] or of_node.get(known.place.node, 1.0) / on_node[known.place.node]
            for known in members
        ]

    def peak_flops(self, members: list[KnownWorker]) -> float | None:
        """FLOP/s of their hardware together, where every one's is known; of a GPU that several share, each has its part."""
        peaks = []
        for known in members:
            pool = self.pools[known.place.pool]
            part = min(1.0, pool.resources.get("GPU", 1.0))
            peaks.append(pool.peak_flops or part * (known_peak(known.status.facts["hardware"]) or 0.0))
        return sum(peaks) if all(peaks) else None

    def cordon(self, node: str) -> None:
        """Never use the node again."""
        self.shunned[node] = float("inf")

    def close(self) -> None:
        for known in self.members.values():
            with suppress(RayError):
                ray.kill(known.handle)


def _short(facts: dict[str, Any]) -> dict[str, Any]:
    return {name: facts[name] for name in ("device", *KIND, "model_s") if name in facts}
