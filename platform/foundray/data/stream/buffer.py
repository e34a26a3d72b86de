"""Parcels between the pipeline that reads them and the workers that receive them."""

from __future__ import annotations

from bisect import bisect_right
from collections import deque
from collections.abc import Iterable

from foundray.data.stream.plan import Parcel

KEPT_PARCELS = 32
"""Most parcels kept, after all of their micro-batches are handed out, for a group that has to repeat their steps."""


class Buffer:
    """The parcels of a stream from position `start` on, in order and without a gap."""

    def __init__(self, start: int, parcels: Iterable[Parcel] = ()):
        self.start = self.end = start
        """The parcels hold the micro-batches [start, end); the first may begin before."""
        self.parcels: list[Parcel] = []
        self.firsts: list[int] = []
        """First micro-batch of each parcel."""
        self.left: list[int] = []
        """Micro-batches of each parcel that are not handed out."""
        self.kept: deque[Parcel] = deque(maxlen=KEPT_PARCELS)
        for parcel in parcels:
            self.append(parcel)

    def append(self, parcel: Parcel) -> None:
        """Add the next parcel."""
        first, count, _ = parcel
        self.parcels.append(parcel)
        self.firsts.append(first)
        self.left.append(first + count - max(first, self.start))
        self.end = first + count

    def hand_out(self, start: int, stop: int) -> list[Parcel]:
        """Return the parcels that hold the micro-batches [start, stop), which are asked for once."""
        found, index = list[Parcel](), bisect_right(self.firsts, start) - 1
        while start < stop:
            first, count, _ = parcel = self.parcels[index]
            found.append(parcel)
            until = min(stop, first + count)
            self.left[index] -= until - start
            start, index = until, index + 1
        self._drop()
        return found

    def close(self) -> list[Parcel]:
        """Return the parcels kept and those that are left, in order, and forget them."""
        found = [*self.kept, *self.parcels]
        for listed in (self.parcels, self.firsts, self.left):
            listed.clear()
        return found

    def _drop(self) -> None:
        """Drop parcels that are handed out whole, from the front: those behind one that waits for its worker stay with it."""
        whole = 0
        while whole < len(self.left) and not self.left[whole]:
            whole += 1
        if whole:
            self.kept.extend(self.parcels[:whole])
            for listed in (self.parcels, self.firsts, self.left):
                del listed[:whole]
