"""Pipes through which the workers of one machine wait for each other. A byte says that its sender has arrived.

A collective of gloo passes through three threads that wake each other. If all processors compute, each may wait for the
scheduler's next tick, and the collective takes 4 ms (measured; 0.06 ms here, where the worker's own thread waits). A pipe
closes with its process, so the others notice at once that a worker is gone. A process that a worker forked would keep the
pipes open: workers fork none without exec, and all descriptors close then.
"""

from __future__ import annotations

import os
import select
import threading
from contextlib import suppress


class LostConnection(RuntimeError):
    """Another worker of the group is gone, or the group was aborted. The driver recognises it by its name."""


class Meeting:
    def __init__(self, incoming: list[int], outgoing: list[int], silence_s: float):
        """Use the pipes' ends, one per other worker; their descriptors stay the caller's.

        `silence_s` is the longest wait for the others, in seconds. Raises OSError.
        """
        self.open, self.lock, self.silence_s = True, threading.Lock(), silence_s
        self.descriptors: list[int] = []
        try:
            self.aborted = self._own(os.eventfd(0, os.EFD_CLOEXEC))
            self.incoming = [self._own(os.dup(pipe)) for pipe in incoming]
            self.outgoing = [self._own(os.dup(pipe)) for pipe in outgoing]
        except OSError:
            self.close()
            raise

    def _own(self, descriptor: int) -> int:
        self.descriptors.append(descriptor)
        return descriptor

    def wait(self) -> None:
        """Return once all workers have called this. Raises LostConnection if one cannot, or after `abort`."""
        if not self.open:
            raise LostConnection("this worker has left the group")
        try:
            for pipe in self.outgoing:
                os.write(pipe, b"\0")
            self._receive()
        except BrokenPipeError:
            raise LostConnection("a worker of the group is gone") from None

    def _receive(self) -> None:
        """Read a byte from each of the others, in the order of arrival: one that is gone is noticed behind one that is slow."""
        poll, pending = select.poll(), set(self.incoming)
        for pipe in (*pending, self.aborted):
            poll.register(pipe, select.POLLIN)
        while pending:
            ready = {pipe for pipe, _ in poll.poll(1e3 * self.silence_s)}
            if not ready:
                raise LostConnection(f"a worker of the group has been silent for {self.silence_s:.0f} s")
            if self.aborted in ready:
                raise LostConnection("the group was aborted")
            for pipe in ready:
                if not os.read(pipe, 1):
                    raise BrokenPipeError
                poll.unregister(pipe)
            pending -= ready

    def abort(self) -> None:
        """Make `wait` raise; called from another thread."""
        with self.lock:
            if self.open:
                os.eventfd_write(self.aborted, 1)

    def close(self) -> None:
        """Leave: the others' `wait` raises."""
        with self.lock:
            if self.open:
                self.open = False
                close_all(self.descriptors)

    def __del__(self) -> None:
        self.close()


def open_ends(names: list[str]) -> list[int] | None:
    """Open the ends to write to; None if one cannot be opened."""
    ends: list[int] = []
    try:
        for name in names:
            ends.append(os.open(name, os.O_WRONLY | os.O_NONBLOCK))
    except OSError:
        close_all(ends)
        return None
    return ends


def close_all(descriptors: list[int]) -> None:
    for descriptor in descriptors:
        with suppress(OSError):
            os.close(descriptor)
