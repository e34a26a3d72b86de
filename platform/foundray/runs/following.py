"""Follow a run's records on any storage; each read costs only the new ones."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from heapq import merge
from typing import Any

from foundray.errors import InputError
from foundray.host.processes import lives_here
from foundray.records.lines import damage_sentences
from foundray.records.reader import Reader, Shorter
from foundray.runs.goodput import ENDS
from foundray.runs.lock import HOLDER, PATIENCE_SECONDS, holder_of
from foundray.runs.run import Run
from foundray.storage import Store

LOCAL_SECONDS, REMOTE_SECONDS = 1.0, 5.0
"""Between two reads. An object store is written only every few seconds, and charges for each read."""
LOGS = ("metrics", "events")
"""Read in reverse order of writing: with a step, all events before it are read."""

Record = dict[str, Any]


class Follower:
    def __init__(self, folder: Store):
        self.folder = folder
        self.restarted = True
        """Whether the last call read from the start, because the logs were replaced: earlier records are void."""
        self._begin()

    def _begin(self) -> None:
        self.readers = [Reader(self.folder, log) for log in LOGS]
        self.pending: list[Record] = []
        """Records read before a read failed."""
        self.begun = False

    def new(self) -> list[Record]:
        """Return the records since the last call, in order of time. Raises InputError if they cannot be read."""
        self.restarted = not self.begun
        try:
            self._read()
        except Shorter:
            self.restarted = True
            self._begin()
            self._read()
        records, self.pending = sorted(self.pending, key=lambda record: record["time"]), []
        self.begun = self.begun or bool(records)
        return records

    def all(self) -> Iterator[Record]:
        """Yield the new records in order of time, in constant memory. Raises InputError, as `new`."""
        return merge(*(reader.new() for reader in self.readers), key=lambda record: record["time"])

    def _read(self) -> None:
        for reader in self.readers:
            for record in reader.new():
                self.pending.append(record)

    def damage(self) -> list[str]:
        """One sentence per damaged log file."""
        return damage_sentences([one for reader in self.readers for one in reader.damage])


class Pulse:
    """Whether a command runs a run, seen from outside, without waiting."""

    def __init__(self, folder: Store):
        self.folder = folder
        self.beat: tuple[str, int] | None = None
        self.changed = time.monotonic()
        """When the beat last changed."""

    def beats(self) -> bool:
        """Whether the holder's process is alive, on this machine; elsewhere, whether its counter moved recently."""
        try:
            holder = holder_of(self.folder)
            if holder is None and not (self.folder / HOLDER).exists():
                return False
        except InputError:  # storage may be away for a while
            holder = None
        if holder is None:  # unknown, or the file is damaged
            return time.monotonic() - self.changed < PATIENCE_SECONDS
        if (here := lives_here(holder)) is not None:
            if here:
                self.changed = time.monotonic()
            return here
        if (beat := (holder["token"], holder["beats"])) != self.beat:
            self.beat, self.changed = beat, time.monotonic()
        return time.monotonic() - self.changed < PATIENCE_SECONDS


@dataclass(frozen=True)
class Look:
    """Result of one read of a run."""

    records: list[Record]
    """New records, in order of time."""
    restarted: bool
    """Whether these are all records, and earlier ones are void."""
    alive: bool
    """Whether a command runs the run."""
    problem: str = ""
    """Why nothing could be read; empty if it could."""
    damage: Sequence[str] = ()
    """Damage in the logs, one sentence per file."""


def looks(run: Run) -> Iterator[Look]:
    """Read a run every second or so, until it has ended or no command has run it for a while.

    Waits for the first record. Raises InputError if the first read fails.
    """
    follower, pulse = Follower(run.folder), Pulse(run.folder)
    look: Look | None = None
    last: Record | None = None
    alive_at = time.monotonic()
    while True:
        alive = pulse.beats()  # before reading: a command that is gone has then written everything
        alive_at = time.monotonic() if alive else alive_at
        try:
            records = follower.new()
            look = Look(records, follower.restarted, alive, damage=follower.damage())
        except InputError as error:
            if look is None:
                raise
            look = Look([], False, alive, str(error), look.damage)
        events = [record for record in look.records if "event" in record]
        last = events[-1] if events else None if look.restarted else last
        yield look
        ended = last is not None and last["event"] in ENDS
        abandoned = last is not None and time.monotonic() - alive_at > PATIENCE_SECONDS
        if not alive and not look.problem and (ended or abandoned):
            return
        time.sleep(LOCAL_SECONDS if run.folder.is_local else REMOTE_SECONDS)
