"""Rules for giving up: too many broken groups in a row, or storage that does not answer for too long."""

from __future__ import annotations

import time
from collections.abc import Callable

from foundray.errors import FoundrayError, InputError, RunFailed
from foundray.spec import FaultConfig

STORAGE_RETRY_SECONDS = 1.0
"""Wait before the next group if storage does not answer."""


def lost_connection(cause: str) -> bool:
    """Tell whether a worker reports only that it lost another worker, which may know the cause.

    These are gloo's words, and the name of `LostConnection`, which a reason begins with.
    """
    return "closed by peer" in cause or "Connection" in cause


class Failures:
    """Counts a command's failures without a step in between. Waiting for storage does not count."""

    def __init__(self, fault: FaultConfig, resume: str, now: Callable[[], float] = time.monotonic):
        """`resume` is the command that continues the run."""
        self.fault, self.resume, self.now = fault, resume, now
        self.total = 0
        """Groups broken since the command began."""
        self.in_a_row = 0
        self.step = -1
        self.away_since: float | None = None

    @property
    def is_away_too_long(self) -> bool:
        """Whether storage has not answered for longer than a run waits."""
        return self.away_since is not None and self.now() - self.away_since > self.fault.storage_wait_s

    def add(self, step: int, cause: str, away: bool) -> float:
        """Count a group that broke after `step`, and return the seconds to wait before the next one. Raises RunFailed."""
        if step > self.step:
            self.in_a_row, self.away_since = 0, None
        self.step = step
        self.total += 1
        if away or (self.away_since is not None and lost_connection(cause)):
            self.away_since = self.now() if self.away_since is None else self.away_since
            if self.is_away_too_long:
                raise RunFailed(
                    f"storage has not answered for {self.fault.storage_wait_s:.0f} s: {cause}; once it does, `{self.resume}` "
                    "continues from the last checkpoint"
                )
            return STORAGE_RETRY_SECONDS
        self.in_a_row += 1
        if self.in_a_row > self.fault.max_restarts:
            raise RunFailed(
                f"the run failed {self.in_a_row} times at step {step}: {cause}; `{self.resume}` continues from the last "
                "checkpoint"
            )
        return 0.0

    def no_checkpoint(self, damaged: str) -> FoundrayError:
        """Why the run cannot continue from any checkpoint, and what the user can do; `damaged` says what is wrong with each."""
        problem = f"no checkpoint can be used: {damaged}"
        if self.away_since is not None:  # one of them may answer later
            return RunFailed(f"{problem}; once storage answers, `{self.resume}` continues from the newest one")
        return InputError(f"{problem}; delete the run's checkpoints to start over")
