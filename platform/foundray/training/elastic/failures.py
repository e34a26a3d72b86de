"""When a command gives up: too many broken groups in a row, or storage that does not answer for too long."""

from __future__ import annotations

import time
from collections.abc import Callable

from foundray.errors import RunFailed
from foundray.spec import FaultConfig

AWAY_SECONDS = 1.0
"""Between two tries of a group whose storage does not answer."""


def hung_up(cause: str) -> bool:
    """Whether a worker says no more than that it lost another one, which may know why."""
    return "closed by peer" in cause or "Connection" in cause


class Failures:
    """Of a command's groups, without a step in between. Storage that is away is waited for, and counts as none."""

    def __init__(self, fault: FaultConfig, resume: str, now: Callable[[], float] = time.monotonic):
        """`resume` is the command that continues the run."""
        self.fault, self.resume, self.now = fault, resume, now
        self.total = 0
        """Groups broken in all."""
        self.in_a_row = 0
        self.step = -1
        self.away_since: float | None = None

    def add(self, step: int, cause: str, away: bool) -> float:
        """Count a group that broke after `step`; gives the seconds to wait before the next one. Raises RunFailed."""
        if step > self.step:
            self.in_a_row, self.away_since = 0, None
        self.step = step
        self.total += 1
        if away or (self.away_since is not None and hung_up(cause)):
            self.away_since = self.now() if self.away_since is None else self.away_since
            if self.now() - self.away_since > self.fault.storage_wait_s:
                raise RunFailed(
                    f"storage has not answered for {self.fault.storage_wait_s:.0f} s: {cause}; once it does, `{self.resume}` "
                    "goes on from the last checkpoint"
                )
            return AWAY_SECONDS
        self.in_a_row += 1
        if self.in_a_row > self.fault.max_restarts:
            raise RunFailed(
                f"the run failed {self.in_a_row} times at step {step}: {cause}; `{self.resume}` goes on from the last "
                "checkpoint"
            )
        return 0.0
