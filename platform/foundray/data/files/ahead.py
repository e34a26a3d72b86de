"""A byte stream with look-ahead."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

CHUNK = 2**20
"""Bytes per read. A damaged file may claim any size, so memory grows only as bytes arrive."""


class LookAhead:
    """A byte stream from which bytes can be peeked at, taken and pushed back."""

    def __init__(self, stream: Any):
        self.stream = stream
        self.at = 0
        """Offset of the next byte: bytes taken so far."""
        self._held, self._start = b"", 0  # bytes read from the stream, and how many of them are taken

    def read(self, size: int) -> bytes:
        """Take the next `size` bytes, fewer only at the end."""
        found = self.peek(size)
        self._start += len(found)
        self.at += len(found)
        if self._start == len(self._held):
            self._held, self._start = b"", 0  # so that the caller alone keeps its memory
        return found

    def peek(self, size: int) -> bytes:
        """The next `size` bytes, fewer only at the end, without taking them."""
        if len(self._held) - self._start < size:
            self._hold(size)
        return self._held[self._start : self._start + size]

    def _hold(self, size: int) -> None:
        parts = [self._held[self._start :]] if self._start < len(self._held) else []
        held = sum(map(len, parts))
        try:
            while held < size and (chunk := self._more(min(size - held, CHUNK))):
                parts.append(chunk)
                held += len(chunk)
        finally:
            self._held, self._start = parts[0] if len(parts) == 1 else b"".join(parts), 0

    def _more(self, size: int) -> bytes:
        """Up to `size` bytes of the stream; none at its end."""
        found: bytes = self.stream.read1(size)
        return found

    def push_back(self, taken: bytes) -> None:
        """Put back the bytes that were taken last."""
        self._held, self._start = taken + self._held[self._start :], 0
        self.at -= len(taken)

    def skip(self, size: int) -> int:
        """Take up to `size` bytes without keeping them, and return their number."""
        left = size
        while left and (found := self.read(min(left, CHUNK))):
            left -= len(found)
        return size - left

    def skip_zeros(self) -> int:
        """Take all zero bytes that come next, and return their number."""
        start = self.at
        while self.peek(1) == b"\0":  # most often there are none
            found = self.peek(CHUNK)
            zeros = len(found) - len(found.lstrip(b"\0"))
            self.skip(zeros)
        return self.at - start

    def skip_until(self, find: Callable[[bytes], int], overlap: int) -> bool:
        """Take all bytes before the first match of `find`, or up to the end. Returns whether there is a match.

        `find` returns a match's offset in the bytes it is given, -1 for none. It needs at most `overlap` bytes of a match.
        """
        while True:
            found = self.peek(CHUNK + overlap)
            if (offset := find(found)) >= 0:
                self.skip(offset)
                return True
            if len(found) < CHUNK + overlap:
                self.skip(len(found))
                return False
            self.skip(CHUNK)

    def seek(self, offset: int) -> bool:
        """Go back to an offset. Returns False if the stream is not seekable."""
        if not self.stream.seekable():
            return False
        self.stream.seek(offset)
        self.at, self._held, self._start = offset, b"", 0
        return True

    def read1(self, size: int) -> bytes:
        return self.read(size)

    def seekable(self) -> bool:
        found: bool = self.stream.seekable()
        return found
