"""A barrier for workers of one machine: a pipe leads from each to each, and a byte in it means "I have arrived".

In a collective of gloo, three threads wake each other. If all processors compute, each thread may wait for the scheduler's
next tick, so that a collective takes 4 ms (measured; here, where the worker's own thread waits, 0.06 ms). Pipes close with
their process, so a worker that waits for a lost one notices at once.
"""

from __future__ import annotations

import os
import select
import threading
from collections.abc import Mapping
from contextlib import suppress


class Meeting:
    def __init__(self, incoming: list[int], outgoing: list[int], silence_s: float):
        """Take over the descriptors of the pipes' ends, one per other worker.

        `silence_s` is the longest wait for a worker, in seconds.
        """
        self.incoming, self.outgoing, self.silence_s = incoming, outgoing, silence_s
        self.broken_off = os.eventfd(0, os.EFD_CLOEXEC)
        self.waits = []
        """A poll for each of `incoming`, which `broken_off` ends too."""
        for pipe in incoming:
            self.waits.append(select.poll())
            self.waits[-1].register(pipe, select.POLLIN)
            self.waits[-1].register(self.broken_off, select.POLLIN)
        self.open, self.lock = True, threading.Lock()

    def wait(self) -> None:
        """Wait until all workers have arrived. Raises RuntimeError if one is gone or silent, or after `break_off`."""
        try:
            for pipe in self.outgoing:
                os.write(pipe, b"\0")
            for pipe, wait in zip(self.incoming, self.waits, strict=True):
                ready = dict(wait.poll(1e3 * self.silence_s))
                if not ready or self.broken_off in ready:
                    raise RuntimeError("the group was broken off" if ready else f"silence for {self.silence_s:.0f} s")
                if not os.read(pipe, 1):
                    raise BrokenPipeError
        except OSError:
            raise RuntimeError("a worker of the group is gone") from None

    def break_off(self) -> None:
        """Make `wait` raise; called from another thread."""
        with self.lock:
            if self.open:
                os.eventfd_write(self.broken_off, 1)

    def close(self) -> None:
        """Leave: the others' `wait` raises."""
        with self.lock:
            if self.open:
                self.open = False
                for descriptor in (*self.incoming, *self.outgoing, self.broken_off):
                    os.close(descriptor)

    def __del__(self) -> None:
        self.close()


class Inbox:
    """Pipes that the others can open by their names while the block runs."""

    def __init__(self, others: list[int]):
        self.pipes: Mapping[int, tuple[int, int]] = {other: os.pipe() for other in others}
        self.kept = False

    def __enter__(self) -> Inbox:
        return self

    def __exit__(self, *_: object) -> None:
        for read, write in self.pipes.values():
            os.close(write)  # otherwise the pipe would stay open after the other worker is gone
            if not self.kept:
                os.close(read)

    def names(self) -> dict[str, str]:
        """The path through which each other worker, by rank, opens its end."""
        return {str(other): f"/proc/{os.getpid()}/fd/{write}" for other, (_, write) in self.pipes.items()}

    def keep(self) -> list[int]:
        """Keep the ends to read from open, and return them."""
        self.kept = True
        return [read for read, _ in self.pipes.values()]


def opened(names: list[str]) -> list[int] | None:
    """Open the ends to write to; None if one cannot be opened."""
    ends: list[int] = []
    try:
        for name in names:
            ends.append(os.open(name, os.O_WRONLY | os.O_NONBLOCK))
    except OSError:
        for end in ends:
            with suppress(OSError):
                os.close(end)
        return None
    return ends
