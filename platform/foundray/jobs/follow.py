"""A job's output as it comes, past cuts of the connection and restarts of the cluster's head."""

from __future__ import annotations

import time
from collections.abc import Iterator

from foundray.errors import RunFailed
from foundray.jobs.client import Client

GONE_SECONDS = 120.0
"""The cluster's head may be away for so long."""
QUIET_SECONDS = 20.0
"""After so long without a line the cluster is asked whether the job is still there: a connection may be dead without a word."""
AGAIN_SECONDS = 1.0
SIGNALLED = 143
"""Exit status of what SIGTERM ended."""


def lines(client: Client, job: str, mark: str = "") -> Iterator[str | None]:
    """The lines after the one with the mark, each once, until the job ends; None now and then while there is none.

    Raises RunFailed where the cluster stays away, and InputError where it has forgotten the job.
    """
    reader = _Reader(mark)
    asked = time.monotonic()
    """When the cluster last told that the job is there."""
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
    """Lines of a text that every connection tells from its beginning."""

    def __init__(self, mark: str):
        self.mark, self.marked = mark, not mark
        self.seen = 0
        """Lines that were read."""

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
    """Of a job that is over: that of its command, as far as Ray knows it."""
    info = client.known(job)
    if info.status == "STOPPED":
        return SIGNALLED
    return int(info.driver_exit_code if info.driver_exit_code is not None else info.status != "SUCCEEDED")
