"""The board: a small actor beside the driver, where workers leave their records and say that they hold a place.

It appends and hands out in the order of arrival. Records travel with their age, not with a time: clocks of different
machines are never compared. (Ray's own Queue is an asyncio actor, which may run calls in another
order than they were made, and a timed `get` of it can drop what arrives as its time runs out.)
"""

from __future__ import annotations

import time
from collections import deque
from dataclasses import dataclass
from typing import Any

import ray

FLUSH_SECONDS = 0.5
ATTENDANCE_SECONDS = 1.0
"""Between two signs of life of a place."""
ABSENT_SECONDS = 5.0
"""Without a sign of life for so long, a place is gone."""
REMEMBERED = 1000
"""Records that every worker keeps until the driver has them, so that another can send them when rank 0 is lost."""

Record = dict[str, Any]


@dataclass(frozen=True)
class Slot:
    """What Ray Train reserved for one worker."""

    node: str
    """Ray's id of the node."""
    gpus: tuple[str, ...]
    pool: str
    """The name of the pool that it is for."""


class _Board:
    """The actor. It runs one call after another, a caller's in the order in which they were made."""

    def __init__(self) -> None:
        self.records: list[tuple[Record, float]] = []
        # By pool and by rank in Ray Train's group: a new group's replace the old one's.
        self.places: dict[tuple[str, int], tuple[Slot, float]] = {}
        self.open = True

    def append(self, records: list[Record]) -> None:
        arrived = time.monotonic()
        self.records += [(record, arrived) for record in records]

    def attend(self, pool: str, rank: int, place: Slot) -> bool:
        """A sign of life from whoever holds the place; False tells it to go."""
        self.places[pool, rank] = (place, time.monotonic())
        return self.open

    def take(self) -> tuple[list[Record], list[Slot]]:
        """The records that came since the last call, and the places that are held."""
        now = time.monotonic()
        taken, self.records = _aged(self.records, now), []
        held_until = now - ABSENT_SECONDS
        return taken, [place for place, seen in self.places.values() if seen > held_until]

    def close(self) -> None:
        self.open = False


def start_board() -> Any:
    """A board of the calling process's lifetime, beside it: while the driver is there to read, so is the board."""
    from foundray.cluster.connect import beside_caller  # not above: the board, and who holds a place, have no use for it

    return ray.remote(_Board).options(num_cpus=0, scheduling_strategy=beside_caller()).remote()


def hold_slot(config: dict[str, Any]) -> None:
    """Ray Train's loop function: hold what Ray Train reserved, until the run is over.

    The computing is done by a member in a process of its own on the same node, which outlives this one: when Ray Train
    tears a group down because one of it is lost, or to change its size, the members go on.
    """
    import ray.train  # not above: it takes a second, and every worker and the driver import this module

    rank = ray.train.get_context().get_world_rank()
    place = Slot(ray.get_runtime_context().get_node_id(), tuple(map(str, ray.get_gpu_ids())), config["pool"])
    while ray.get(config["board"].attend.remote(config["pool"], rank, place)):
        time.sleep(ATTENDANCE_SECONDS)


class Journal:
    """A worker's end. All workers note the same records; rank 0 sends them, now and then and in order."""

    def __init__(self, board: Any):
        self.board = board
        self.sends = False
        self.recent: deque[tuple[Record, float]] = deque(maxlen=REMEMBERED)
        """Records, and when they were made by this machine's monotonic clock."""
        self.pending: list[tuple[Record, float]] = []
        self.under_way: list[Any] = []
        self.sent = 0.0

    def begin(self, sends: bool, recorded: int, evaluated: int, step: int) -> None:
        """In a new group, which starts at `step`; the driver knows steps up to `recorded`, evaluations up to `evaluated`.

        Whoever sends now makes up for what was lost with the one who sent before.
        """
        self.recent = deque(((r, at) for r, at in self.recent if r["step"] <= step), REMEMBERED)
        self.sends = sends
        new = [(r, at) for r, at in self.recent if r["step"] > (evaluated if "event" in r else recorded)]
        self.pending = new if sends else []

    def event(self, name: str, **fields: Any) -> None:
        """Something that happened to the group, told at once."""
        from foundray.runs.run import event  # as above

        if self.sends:
            self.pending.append((event(name, **fields), time.monotonic()))
            self.flush()

    def record(self, record: Record) -> None:
        """What a step gave; it has the field `step`."""
        self.recent.append((record, time.monotonic()))
        if self.sends:
            self.pending.append(self.recent[-1])
            if time.monotonic() - self.sent > FLUSH_SECONDS:
                self.flush()

    def flush(self) -> None:
        if self.sends and self.pending:
            if self.under_way:
                _, self.under_way = ray.wait(self.under_way, num_returns=len(self.under_way), timeout=0)
            now = time.monotonic()
            self.under_way.append(self.board.append.remote(_aged(self.pending, now)))
            self.pending, self.sent = [], now

    def close(self) -> None:
        """Wait until all records have arrived."""
        self.flush()
        ray.get(self.under_way)


def _aged(records: list[tuple[Record, float]], now: float) -> list[Record]:
    return [{**record, "age": record.get("age", 0.0) + now - since} for record, since in records]
