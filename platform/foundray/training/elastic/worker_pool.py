"""Worker pool: the coordinator's view of the workers, one in each slot that Ray Train holds."""

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
from foundray.training.elastic.messages import HARDWARE_FIELDS, Status, Work, WorkerHandle
from foundray.training.elastic.prestart import Prestarted, certain_slots, slots_on_new_nodes, start_worker
from foundray.training.slots.board import Slot

LISTEN_SECONDS, CALM_SECONDS = 0.1, 0.5
"""Longest waits for workers' news: while a group forms or ends, and while it computes."""
CORDON_SECONDS = 10.0
"""A node where a worker could not start gets no new one for this long."""
CLAIM_SECONDS, EXPECTED_SECONDS = 5.0, 180.0
"""A worker started before its slot was held is killed this long after the first slot is held, if its own is not; and after
the longer time if no slot is held, because others may have taken them all.
"""
NEW_NODE_SECONDS = 60.0
"""A worker started on a new node is killed if its slot is not held within this time, because others may have taken it.
Ray Train took up to 27 s on a busy machine.
"""
SLOT_LOST_SECONDS = 90.0
"""A worker is released once Ray Train has not held its slot for this long."""


@dataclass
class KnownWorker:
    """A worker, as the coordinator knows it."""

    handle: WorkerHandle
    slot: Slot
    number: int
    watch: Any
    """Pending call that returns the worker's next status."""
    node: str
    """The node's name, for people."""
    status: Status = field(default_factory=Status)
    started: float = field(default_factory=time.monotonic)
    last_heard: float = field(default_factory=time.monotonic)
    """Time of its last answer."""
    slot_held_since: float | None = None
    """Time since which its slot has been held, or certain to be; None if it is only expected."""
    claim_until: float | None = None
    """Time by which an expected slot has to be held, if not the pool's `claims_end`."""
    handed_over: bool = False
    """Whether it has handed over its state and leaves."""
    slot_lost_since: float | None = None
    """Time since which its slot has not been held."""


class WorkerPool:
    def __init__(self, work: Work, spec: Spec, note: Callable[..., None], prestarted: Prestarted | None = None):
        """A worker that is silent for `fault.silence_s` is lost: workers answer every second.

        `prestarted` holds workers that are already started; nobody else can take their slots.
        """
        self.work, self.max_workers, self.silence_s, self.note = work, spec.scale.world[1], spec.fault.silence_s, note
        self.pools, self.prestarted = spec.scale.all_pools, prestarted
        self.workers: dict[int, KnownWorker] = {}
        """Workers by number, in the order in which they started."""
        self.slots: list[Slot] = []
        self.draining: set[str] = set()
        """Draining nodes."""
        self.cordoned: dict[str, float] = {}
        """Nodes, and the time until which no worker is started there."""
        self.nodes: set[str] = set()
        """Nodes seen so far. Workers are started early only on those that are new."""
        self.last_number = 0
        self.claims_end = time.monotonic() + EXPECTED_SECONDS
        """Time by which an expected slot has to be held."""

    def prefetch(self) -> None:
        """Start workers where Ray Train will find slots, so that they warm up meanwhile."""
        whole = whole_nodes()
        self.nodes |= whole.keys()
        for slot in certain_slots(self.pools, whole if self.prestarted else free_resources()):
            self._start_worker(slot)
            if self.prestarted:
                self.workers[self.last_number].slot_held_since = time.monotonic()
        if self.prestarted:
            self.prestarted.close()
            self.prestarted = None

    def listen(self, seconds: float) -> None:
        """Take the workers' news, waiting `seconds` at most. Raises InputError or RunFailed if a worker reports one."""
        watches = {worker.watch: worker for worker in self.workers.values()}
        if not watches:
            return time.sleep(seconds)
        if ray.wait(list(watches), num_returns=1, timeout=seconds)[0]:
            for answered in ray.wait(list(watches), num_returns=len(watches), timeout=0)[0]:
                worker = watches[answered]
                try:
                    self._take_status(worker, ray.get(answered))
                except RayError as error:  # its process or its node is gone, perhaps before it could start
                    self.lose(worker, type(error).__name__)
        for worker in list(self.workers.values()):
            if worker.status.phase != "warming" and time.monotonic() - worker.last_heard > self.silence_s:
                self.lose(worker, f"it has not answered for {self.silence_s:.0f} s")

    def _take_status(self, worker: KnownWorker, status: Status) -> None:
        if status.phase == "ready" and worker.status.phase == "warming":
            seconds = round(time.monotonic() - worker.started, 3)
            where = {"node": worker.node, "node_id": worker.slot.node}
            self.note("member_ready", member=worker.number, **where, seconds=seconds, **_event_facts(status.facts))
        worker.last_heard = time.monotonic()
        facts = worker.status.facts | status.facts
        worker.status = status
        worker.status.facts.update(facts)
        worker.watch = worker.handle.watch.remote(status.version)
        if status.phase == "failed":
            kind = InputError if status.exit_status == InputError.exit_status else RunFailed
            raise kind(status.reason)

    def lose(self, worker: KnownWorker, reason: str) -> None:
        """Remove a worker and record its loss."""
        self.note("member_lost", member=worker.number, node=worker.node, reason=reason)
        if worker.status.phase == "warming":  # Ray Train may not know yet that the node is gone
            self.cordoned[worker.slot.node] = time.monotonic() + CORDON_SECONDS
        self._dismiss(worker)

    def _dismiss(self, worker: KnownWorker) -> None:
        self.workers.pop(worker.number, None)
        with suppress(RayError):
            ray.kill(worker.handle)

    def reconcile(self, slots: list[Slot], group: list[int]) -> None:
        """Keep one worker per slot. A worker outside the group is released if its slot is long lost or its node drains."""
        # Once the first slots are held, the others have a little time to follow.
        if slots and not self.slots:
            self.claims_end = min(self.claims_end, time.monotonic() + CLAIM_SECONDS)
            for worker in self.workers.values():
                worker.slot_lost_since = None
        # Match workers with slots, and release those that should go.
        self.slots, self.draining = slots, draining_nodes()
        vacant = Counter(slots)
        for worker in list(self.workers.values()):
            vacant[worker.slot] -= 1
            if worker.slot_held_since is None and vacant[worker.slot] >= 0:
                worker.slot_held_since = time.monotonic()
            if worker.slot_held_since is None and self._claim_expired(worker):
                self._dismiss(worker)
                continue
            worker.slot_lost_since = None if vacant[worker.slot] >= 0 else (worker.slot_lost_since or time.monotonic())
            idle = worker.number not in group
            if idle and (self._lost_its_slot(worker) or worker.slot.node in self.draining) and worker.status.phase != "warming":
                if worker.handed_over:  # already recorded, and no loss
                    self._dismiss(worker)
                else:
                    self.lose(worker, "its node is draining" if worker.slot.node in self.draining else "its slot is gone")
        # Start a worker in each vacant slot of a usable node.
        staying = sum(worker.slot.node not in self.draining for worker in self.workers.values())
        for slot in slots:
            cordoned = self.cordoned.get(slot.node, 0) > time.monotonic() or slot.node in self.draining
            if vacant[slot] > 0 and not cordoned and staying < self.max_workers:
                vacant[slot] -= 1
                staying += 1
                self._start_worker(slot)
        self._prestart_on_new_nodes()

    def _prestart_on_new_nodes(self) -> None:
        """Start workers on nodes that have just joined: they warm up while Ray Train starts its processes there."""
        try:
            whole = whole_nodes()  # not what is free: Ray Train may have reserved it meanwhile
        except Exception:  # the control store may be away for a while
            return
        new = {node: amounts for node, amounts in whole.items() if node not in self.nodes}
        self.nodes |= new.keys()
        staying = Counter(worker.slot.pool for worker in self.workers.values() if worker.slot.node not in self.draining)
        taken = {worker.slot.node for worker in self.workers.values()}
        for slot in slots_on_new_nodes(self.pools, staying, new):
            if slot.node not in taken | self.draining:
                self._start_worker(slot)
                self.workers[self.last_number].claim_until = time.monotonic() + NEW_NODE_SECONDS

    def _lost_its_slot(self, worker: KnownWorker) -> bool:
        # While Ray Train resizes its group it holds no slot at all, which means nothing.
        since = worker.slot_lost_since
        return bool(self.slots) and since is not None and time.monotonic() - since > SLOT_LOST_SECONDS

    def _start_worker(self, slot: Slot) -> None:
        self.last_number += 1
        handle = (self.prestarted.take(slot) if self.prestarted else None) or start_worker(slot)
        handle.begin.remote(self.work)
        self.workers[self.last_number] = KnownWorker(
            handle, slot, self.last_number, handle.watch.remote(0), node_name(slot.node)
        )

    def may_stay(self, worker: KnownWorker) -> bool:
        """Tell whether the worker's node stays and its slot is held."""
        return worker.slot_held_since is not None and worker.slot.node not in self.draining and not self._lost_its_slot(worker)

    def expected_workers(self) -> int:
        """Number of workers whose slots are expected and may be held at any moment."""
        expected = [worker for worker in self.workers.values() if worker.slot_held_since is None]
        return sum(not self._claim_expired(worker) for worker in expected)

    def _claim_expired(self, worker: KnownWorker) -> bool:
        return time.monotonic() > (worker.claim_until or self.claims_end)

    def shard_memory(self, workers: list[KnownWorker]) -> list[float]:
        """Bytes available to each worker's shard: free on its GPU with the model loaded, or its share of the node's memory."""
        workers_on = Counter(worker.slot.node for worker in self.workers.values())
        bytes_of = node_memory()
        return [
            worker.status.facts["free_bytes"] or bytes_of.get(worker.slot.node, 1.0) / workers_on[worker.slot.node]
            for worker in workers
        ]

    def peak_flops(self, workers: list[KnownWorker]) -> float | None:
        """Peak FLOP/s of the workers' hardware together, if all are known; workers that share a GPU have a share each."""
        peaks = []
        for worker in workers:
            pool = self.pools[worker.slot.pool]
            share = min(1.0, pool.resources.get("GPU", 1.0))
            peaks.append(pool.peak_flops or share * (known_peak(worker.status.facts["hardware"]) or 0.0))
        return sum(peaks) if all(peaks) else None

    def cordon(self, node: str) -> None:
        """Never use the node again."""
        self.cordoned[node] = float("inf")

    def close(self) -> None:
        for worker in self.workers.values():
            with suppress(RayError):
                ray.kill(worker.handle)


def _event_facts(facts: dict[str, Any]) -> dict[str, Any]:
    return {name: facts[name] for name in ("device", *HARDWARE_FIELDS, "model_s") if name in facts}
