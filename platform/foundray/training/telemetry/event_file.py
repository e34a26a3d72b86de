"""A TensorBoard event file written by the calling thread, which therefore learns that the disk is full.

TensorBoard's own writers have a thread and a queue: at the first error the thread ends, the queue fills, and the next caller
that adds a value waits for ever.
"""

from __future__ import annotations

import os
import re
import socket
import struct
import time
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

VERSION = "brain.Event:2"
NAME = re.compile(r"events\.out\.tfevents\.(\d{10})\.")


class EventFile:
    """One unbuffered file, created at once."""

    def __init__(self, path: Path, first: bytes):
        """`first` are the records after the version's. Raises OSError, and then leaves no file."""
        from tensorboard.compat.proto.event_pb2 import Event

        path.parent.mkdir(exist_ok=True)  # but not the run's folder, which may come back
        self.stream = path.open("xb", buffering=0)
        self.size = 0
        """Bytes of complete records."""
        self.broken = False
        """Whether the file ends in a partial record: nothing after it would be read."""
        try:
            self.append(framed(Event(file_version=VERSION)) + first)
        except OSError:
            with suppress(OSError):
                self.stream.close()
            with suppress(OSError):
                path.unlink()
            raise

    def append(self, records: bytes) -> None:
        """Add records, all or none. Raises OSError."""
        left = memoryview(records)
        try:
            while left:
                left = left[self.stream.write(left) :]
        except OSError:
            self._cut()
            raise
        self.size += len(records)

    def _cut(self) -> None:
        try:
            self.stream.seek(self.size)
            self.stream.truncate()
        except OSError:
            self.broken = True

    def close(self) -> None:
        """Raises OSError."""
        self.stream.close()


def framed(event: Any) -> bytes:
    """Stamp an event with the present time, and frame it as in a file: its length, the event, and a checksum of each."""
    from tensorboard.compat.tensorflow_stub.pywrap_tensorflow import masked_crc32c

    event.wall_time = time.time()
    content = event.SerializeToString()
    length = struct.pack("<Q", len(content))
    return b"".join((length, _packed(masked_crc32c(length)), content, _packed(masked_crc32c(content))))


def _packed(checksum: int) -> bytes:
    return struct.pack("<I", checksum)


def file_name(others: Iterable[str]) -> str:
    """Name a file beside others: TensorBoard reads files in the order of their names, which begin with a second each."""
    seconds = [int(found[1]) for name in others if (found := NAME.match(name))]
    second = max(int(time.time()), 1 + max(seconds, default=0))
    return f"events.out.tfevents.{second:010d}.{socket.gethostname()}.{os.getpid()}"
