"""The board: a small actor beside the driver that collects workers' records and the heartbeats of slots.

It appends and hands out in order of arrival. Records travel with their age, not with a time: clocks of different machines are
never compared. A process sends one heartbeat for all its slots, and the more processes there are, the less often each does.
(Ray's own Queue is an asyncio actor, which may run calls in a different order than they were made, and a timed `get` of it can
drop an item that arrives as its time runs out.)
"""

from __future__ import annotations

import time
from collections import deque
from typing import Any, NamedTuple, Protocol

import ray

from foundray.cluster.remote import Remote
from foundray.training.slots.slot import Slot

FLUSH_SECONDS = 0.5
HEARTBEAT_SECONDS = 1.0
"""Shortest interval between two heartbeats of a process that holds slots."""
HEARTBEATS_PER_SECOND = 200
"""Most heartbeats that reach the board: with more processes, each sends them less often. On two cores an actor gets some 400
calls per second."""
LATE_SECONDS = 4.0
"""A process whose heartbeat is late by this long, and by a whole interval, has lost its slots."""
RECENT_RECORDS = 1000
"""Records that every worker keeps until the driver has them, so that another can send them if rank 0 is lost."""

Record = dict[str, Any]


class _Holder(NamedTuple):
    """A process that holds slots."""

    slot: Slot
    slots: int
    """Number of equal slots."""
    until: float
    """Time on the board's monotonic clock at which they are lost without another heartbeat."""


class _Board:
    """The actor. It runs one call at a time, each caller's in the order in which they were made."""

    def __init__(self) -> None:
        self.records: list[tuple[Record, float]] = []
        # By pool and number in Ray Train's group.
        self.holders: dict[tuple[str, int], _Holder] = {}
        self.groups: dict[str, str] = {}
        """Ray Train's current group of each pool."""
        self.replaced: set[tuple[str, str]] = set()
        """(pool, group) of earlier ones, whose late heartbeats do not count: they would undo the current group."""
        self.open = True

    def append(self, records: list[Record]) -> None:
        arrived = time.monotonic()
        self.records += [(record, arrived) for record in records]

    def heartbeat(self, pool: str, rank: int, slot: Slot, slots: int, group: str = "") -> float:
        """Note a heartbeat of the process that holds `slots` slots like `slot`.

        A new group of Ray Train's replaces the pool's old one as a whole: its numbers may stand for other nodes, and a node in
        both must not count twice. Returns the seconds until its next heartbeat is due; 0 asks it to exit.
        """
        if (pool, group) in self.replaced:
            return HEARTBEAT_SECONDS if self.open else 0.0
        if (before := self.groups.setdefault(pool, group)) != group:
            self.groups[pool] = group
            self.replaced.add((pool, before))
            self.holders = {key: holder for key, holder in self.holders.items() if key[0] != pool}
        seconds = max(HEARTBEAT_SECONDS, len(self.holders) / HEARTBEATS_PER_SECOND)
        held_until = time.monotonic() + seconds + max(LATE_SECONDS, seconds)
        self.holders[pool, rank] = _Holder(slot, slots, held_until)
        return seconds if self.open else 0.0

    def take(self) -> tuple[list[Record], list[Slot]]:
        """Return the records since the last call, and the slots held."""
        now = time.monotonic()
        taken, self.records = _aged(self.records, now), []
        self.holders = {key: holder for key, holder in self.holders.items() if holder.until > now}
        return taken, [holder.slot for holder in self.holders.values() for _ in range(holder.slots)]

    def close(self) -> None:
        self.open = False


class BoardHandle(Protocol):
    """The board, as other processes call it."""

    append: Remote[[list[Record]]]
    heartbeat: Remote[[str, int, Slot, int, str]]
    take: Remote[[]]
    close: Remote[[]]


def start_board() -> BoardHandle:
    """Start a board beside the calling process, with the same lifetime: it is there as long as the driver can read."""
    from foundray.cluster.connect import beside_caller  # not above: the board and the slots' holders do not need it

    board: BoardHandle = ray.remote(_Board).options(num_cpus=0, scheduling_strategy=beside_caller()).remote()
    return board


def hold_slot(config: dict[str, Any]) -> None:
    """Ray Train's loop function: hold what Ray Train reserved, which is `config["slots"]` equal slots, until the run is over.

    A worker in a separate process on the same node computes, and outlives this one: when Ray Train tears a group down, because
    it lost a part of it or to resize it, the workers continue.
    """
    import ray.train  # not above: this takes a second, and every worker and the driver import this module

    rank = ray.train.get_context().get_world_rank()
    slot = Slot(ray.get_runtime_context().get_node_id(), tuple(map(str, ray.get_gpu_ids())), config["pool"])
    reservation = ray.util.get_current_placement_group()  # each of Ray Train's groups has its own
    group = reservation.id.hex() if reservation else ""
    while seconds := ray.get(config["board"].heartbeat.remote(config["pool"], rank, slot, config["slots"], group)):
        time.sleep(seconds)


class Journal:
    """A worker's end of the board. All workers note the same records; rank 0 sends them, in order and in batches."""

    def __init__(self, board: BoardHandle):
        self.board = board
        self.sends = False
        self.recent: deque[tuple[Record, float]] = deque(maxlen=RECENT_RECORDS)
        """Records with their time on this machine's monotonic clock."""
        self.pending: list[tuple[Record, float]] = []
        self.in_flight: list[Any] = []
        self.last_sent = 0.0

    def begin(self, sends: bool, recorded: int, evaluated: int, step: int) -> None:
        """Start in a new group at `step`; the driver has steps up to `recorded` and evaluations up to `evaluated`.

        The rank 0 of this group also sends what was lost with the previous one.
        """
        self.recent = deque(((r, at) for r, at in self.recent if r["step"] <= step), RECENT_RECORDS)
        self.sends = sends
        new = [(r, at) for r, at in self.recent if r["step"] > (evaluated if "event" in r else recorded)]
        self.pending = new if sends else []

    def event(self, name: str, **fields: Any) -> None:
        """Send an event of the group at once."""
        from foundray.runs.run import event  # not above: see start_board

        if self.sends:
            self.pending.append((event(name, **fields), time.monotonic()))
            self.flush()

    def record(self, record: Record) -> None:
        """Note a step's record, which has the field `step`."""
        self.recent.append((record, time.monotonic()))
        if self.sends:
            self.pending.append(self.recent[-1])
            if time.monotonic() - self.last_sent > FLUSH_SECONDS:
                self.flush()

    def flush(self) -> None:
        if self.sends and self.pending:
            if self.in_flight:
                _, self.in_flight = ray.wait(self.in_flight, num_returns=len(self.in_flight), timeout=0)
            now = time.monotonic()
            self.in_flight.append(self.board.append.remote(_aged(self.pending, now)))
            self.pending, self.last_sent = [], now

    def close(self) -> None:
        """Send the rest and wait until all records have arrived."""
        self.flush()
        ray.get(self.in_flight)


def _aged(records: list[tuple[Record, float]], now: float) -> list[Record]:
    return [{**record, "age": record.get("age", 0.0) + now - since} for record, since in records]
