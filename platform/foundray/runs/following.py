"""A run's records as they come, wherever its folder lies; reading them costs what is new, however long the run is."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from heapq import merge
from typing import Any

from foundray.errors import InputError
from foundray.host.processes import lives_here
from foundray.records.lines import told
from foundray.records.reader import Reader, Shorter
from foundray.runs.goodput import ENDS
from foundray.runs.lock import HOLDER, PATIENCE_SECONDS, holder_of
from foundray.runs.run import Run
from foundray.storage import Store

LOCAL_SECONDS, REMOTE_SECONDS = 1.0, 5.0
"""Between two looks. An object store is written to every few seconds only, and charges for each look."""
LOGS = ("metrics", "events")
"""In this order, against that of writing: with a step, whatever happened before it is read at the latest."""

Record = dict[str, Any]


class Follower:
    def __init__(self, folder: Store):
        self.folder = folder
        self.anew = True
        """Whether the last call began at the start, since the record is another one: what was told before is void."""
        self._begin()

    def _begin(self) -> None:
        self.readers = [Reader(self.folder, log) for log in LOGS]
        self.pending: list[Record] = []
        """Records that were read before something could not be."""
        self.begun = False

    def new(self) -> list[Record]:
        """What was recorded since the last call, in order of time. Raises InputError where it cannot be read."""
        self.anew = not self.begun
        try:
            self._read()
        except Shorter:
            self.anew = True
            self._begin()
            self._read()
        records, self.pending = sorted(self.pending, key=lambda record: record["time"]), []
        self.begun = self.begun or bool(records)
        return records

    def all(self) -> Iterator[Record]:
        """What is new in order of time, one at a time, however much it is. Raises InputError, as `new`."""
        return merge(*(reader.new() for reader in self.readers), key=lambda record: record["time"])

    def _read(self) -> None:
        for reader in self.readers:
            for record in reader.new():
                self.pending.append(record)

    def damage(self) -> list[str]:
        """A sentence for each damaged file of the record."""
        return told([one for reader in self.readers for one in reader.damage])


class Pulse:
    """Whether a command works on a run, seen from outside, without waiting."""

    def __init__(self, folder: Store):
        self.folder = folder
        self.beat: tuple[str, int] | None = None
        self.changed = time.monotonic()
        """When the beat last did."""

    def beats(self) -> bool:
        """The holder's process tells, on this machine; elsewhere, that its counter has moved not long ago."""
        try:
            holder = holder_of(self.folder)
            if holder is None and not (self.folder / HOLDER).exists():
                return False
        except InputError:  # storage may be away for a while
            holder = None
        if holder is None:  # or the file is damaged
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
    """What one look at a run shows."""

    records: list[Record]
    """Those that are new, in order of time."""
    anew: bool
    """Whether they are all that there is, and what was told before is void."""
    alive: bool
    """Whether a command works on the run."""
    problem: str = ""
    """Why nothing could be read, if so."""
    damage: Sequence[str] = ()
    """What of the record is damaged and left out, a sentence for each file."""


def looks(run: Run) -> Iterator[Look]:
    """Look at a run every second or so, until it has ended, or no command has worked on it for a while.

    One without any record is waited for. Raises InputError where the first look fails.
    """
    follower, pulse = Follower(run.folder), Pulse(run.folder)
    look: Look | None = None
    last: Record | None = None
    alive_at = time.monotonic()
    while True:
        alive = pulse.beats()  # before reading, so that whoever was gone has written all that he will
        alive_at = time.monotonic() if alive else alive_at
        try:
            records = follower.new()
            look = Look(records, follower.anew, alive, damage=follower.damage())
        except InputError as error:
            if look is None:
                raise
            look = Look([], False, alive, str(error), look.damage)
        events = [record for record in look.records if "event" in record]
        last = events[-1] if events else None if look.anew else last
        yield look
        ended = last is not None and last["event"] in ENDS
        abandoned = last is not None and time.monotonic() - alive_at > PATIENCE_SECONDS
        if not alive and not look.problem and (ended or abandoned):
            return
        time.sleep(LOCAL_SECONDS if run.folder.is_local else REMOTE_SECONDS)
