"""Follow a job's output across lost connections and restarts of the cluster's head."""

from __future__ import annotations

import time
from collections.abc import Iterator

from foundray.errors import RunFailed
from foundray.jobs.client import Client

GONE_SECONDS = 120.0
"""Longest time that the cluster's head may be away."""
QUIET_SECONDS = 20.0
"""Time without a line after which we ask whether the job still exists: a connection may die silently."""
AGAIN_SECONDS = 1.0
SIGNALLED = 143
"""Exit status of a process that SIGTERM ended."""


def lines(client: Client, job: str, mark: str = "") -> Iterator[str | None]:
    """Yield each line after the one with the mark, once, until the job ends; and None from time to time if there is no line.

    Raises RunFailed if the cluster stays away, and InputError if it no longer knows the job.
    """
    reader = _Reader(mark)
    asked = time.monotonic()
    """When the cluster last confirmed that the job exists."""
    while True:
        heard = time.monotonic()
        try:
            reader.begin()
            for piece in client.log(job):
                if piece is None:
                    yield None
                    if time.monotonic() - heard > QUIET_SECONDS:
                        break
                else:
                    heard = time.monotonic()
                    yield from reader.read(piece)
        except (OSError, RuntimeError):
            pass  # the head, or the job's node, is away
        try:
            over = client.known(job).status.is_terminal()
            asked = time.monotonic()
        except RunFailed as error:
            over = False
            if time.monotonic() - asked > GONE_SECONDS:
                raise RunFailed(f"{error}; submit the run once more when it is back") from None
        if over:
            yield from reader.rest()
            return
        yield None
        time.sleep(AGAIN_SECONDS)


class _Reader:
    """Splits a job's output into lines, each returned once although every connection sends the output from its beginning."""

    def __init__(self, mark: str):
        self.mark, self.marked = mark, not mark
        self.seen = 0
        """Number of lines read so far."""

    def begin(self) -> None:
        self.position, self.unfinished = 0, ""

    def read(self, piece: str) -> Iterator[str]:
        *whole, self.unfinished = (self.unfinished + piece).split("\n")
        for line in whole:
            self.position += 1
            if self.position > self.seen:
                self.seen = self.position
                if self.marked:
                    yield line
                self.marked = self.marked or self.mark in line

    def rest(self) -> Iterator[str]:
        if self.unfinished and self.marked:
            yield self.unfinished


def exit_status(client: Client, job: str) -> int:
    """Exit status of the command of a job that is over, as far as Ray knows it."""
    info = client.known(job)
    if info.status == "STOPPED":
        return SIGNALLED
    return int(info.driver_exit_code if info.driver_exit_code is not None else info.status != "SUCCEEDED")
