"""A stream of bytes that can be looked into before anything is taken from it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

MOST = 2**20
"""Bytes that are read at a time: a size that a damaged file promises is believed only as its bytes arrive."""


class Ahead:
    """Bytes of a stream, with a look ahead."""

    def __init__(self, stream: Any):
        self.stream = stream
        self.at = 0
        """Bytes taken so far: the position of the next one."""
        self._held, self._start = b"", 0  # what was looked at is `_held`, and what was taken of that lies before `_start`

    def read(self, size: int) -> bytes:
        """Take the next bytes, fewer only at the end."""
        found = self.peek(size)
        self._start += len(found)
        self.at += len(found)
        if self._start == len(self._held):
            self._held, self._start = b"", 0  # its memory is free once the caller lets go of it
        return found

    def peek(self, size: int) -> bytes:
        """Look at the next bytes, fewer only at the end."""
        if len(self._held) - self._start < size:
            self._hold(size)
        return self._held[self._start : self._start + size]

    def _hold(self, size: int) -> None:
        parts = [self._held[self._start :]] if self._start < len(self._held) else []
        held = sum(map(len, parts))
        try:
            while held < size and (piece := self._more(min(size - held, MOST))):
                parts.append(piece)
                held += len(piece)
        finally:
            self._held, self._start = parts[0] if len(parts) == 1 else b"".join(parts), 0

    def _more(self, size: int) -> bytes:
        """Up to so many bytes of the stream; none at its end."""
        found: bytes = self.stream.read1(size)
        return found

    def back(self, taken: bytes) -> None:
        """Put back what was taken last."""
        self._held, self._start = taken + self._held[self._start :], 0
        self.at -= len(taken)

    def skip(self, size: int) -> int:
        """Take so many bytes without keeping them; gives how many there were."""
        left = size
        while left and (found := self.read(min(left, MOST))):
            left -= len(found)
        return size - left

    def skip_zeros(self) -> int:
        """Take the zero bytes that come next; gives how many there were."""
        start = self.at
        while self.peek(1) == b"\0":  # most often there are none
            found = self.peek(MOST)
            zeros = len(found) - len(found.lstrip(b"\0"))
            self.skip(zeros)
        return self.at - start

    def skip_until(self, find: Callable[[bytes], int], overlap: int) -> bool:
        """Take all before the place that `find` gives, or before the end; whether there is one.

        `find` gives its place in a stretch of bytes, -1 for none; it sees at least `overlap` bytes of it, if they are there.
        """
        while True:
            found = self.peek(MOST + overlap)
            if (place := find(found)) >= 0:
                self.skip(place)
                return True
            if len(found) < MOST + overlap:
                self.skip(len(found))
                return False
            self.skip(MOST)

    def seek(self, place: int) -> bool:
        """Go back to a position; False where the stream cannot."""
        if not self.stream.seekable():
            return False
        self.stream.seek(place)
        self.at, self._held, self._start = place, b"", 0
        return True

    def read1(self, size: int) -> bytes:
        return self.read(size)

    def seekable(self) -> bool:
        found: bool = self.stream.seekable()
        return found
