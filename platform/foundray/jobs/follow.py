"""A job's output as it comes, past cuts of the connection and restarts of the cluster's head."""

from __future__ import annotations

import time
from collections.abc import Iterator

from foundray.errors import FoundrayError, RunFailed
from foundray.jobs.client import Client

GONE_SECONDS = 120.0
"""The cluster's head may be away for so long."""
AGAIN_SECONDS = 1.0
SIGNALLED = 143
"""Exit status of what SIGTERM ended."""


def lines(client: Client, job: str, mark: str = "") -> Iterator[str | None]:
    """The lines after the one with the mark, each once, until the job ends; None for every second without one.

    Raises RunFailed where the cluster stays away.
    """
    seen, last_answer, marked = 0, time.monotonic(), not mark
    while True:
        position, unfinished = 0, ""
        try:
            for piece in client.log(job):
                last_answer = time.monotonic()
                if piece is None:
                    yield None
                    continue
                # A connection made anew tells everything again.
                *whole, unfinished = (unfinished + piece).split("\n")
                for line in whole:
                    position += 1
                    if position > seen:
                        seen = position
                        if marked:
                            yield line
                        marked = marked or mark in line
            if client.known(job).status.is_terminal():
                if unfinished and marked:
                    yield unfinished
                return
        except (FoundrayError, OSError, RuntimeError) as error:
            if time.monotonic() - last_answer > GONE_SECONDS:
                raise RunFailed(
                    f"the cluster at {client.url} has been away for {GONE_SECONDS:.0f} s ({str(error)[:120]}); submit the run "
                    "once more when it is back"
                ) from None
        yield None
        time.sleep(AGAIN_SECONDS)


def exit_status(client: Client, job: str) -> int:
    """Of a job that is over: that of its command, as far as Ray knows it."""
    info = client.known(job)
    if info.status == "STOPPED":
        return SIGNALLED
    return int(info.driver_exit_code if info.driver_exit_code is not None else info.status != "SUCCEEDED")
