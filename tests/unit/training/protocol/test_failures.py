"""When a command gives up after failures."""

from __future__ import annotations

import pickle

import pytest
from ray.exceptions import RayTaskError

from foundray.cluster.causes import is_away
from foundray.errors import InputError, RunFailed, StorageAway
from foundray.spec import FaultConfig
from foundray.training.collectives.meeting import LostConnection
from foundray.training.protocol.failures import Failures


class Clock:
    seconds = 0.0

    def __call__(self) -> float:
        return self.seconds


def failures(clock: Clock) -> Failures:
    return Failures(FaultConfig(max_restarts=3, storage_wait_s=60), "foundray resume x", clock)


def test_failures_in_a_row_are_counted_and_a_step_resets_the_count() -> None:
    subject = failures(Clock())
    for step in (4, 4, 4, 5, 5, 5):
        assert subject.add(step, "a worker was lost", False) == 0
    with pytest.raises(RunFailed, match=r"failed 4 times at step 5: a worker was lost; `foundray resume x`"):
        subject.add(5, "a worker was lost", False)
    assert subject.total == 7


def test_storage_that_is_away_does_not_use_up_the_restarts() -> None:
    clock = Clock()
    subject = failures(clock)
    for _ in range(25):
        clock.seconds += 2
        assert subject.add(4, "s3://b/x cannot be read: SLOW_DOWN", True) > 0
        for lost in ("Connection closed by peer", f"{LostConnection.__name__}: a worker of the group is gone"):
            assert subject.add(4, lost, False) > 0, "of a worker whose neighbour could not read"
    subject.add(5, "s3://b/x cannot be read: SLOW_DOWN", True)  # it answered in between
    clock.seconds += 59
    assert subject.add(5, "s3://b/x cannot be read: SLOW_DOWN", True) > 0
    clock.seconds += 2
    with pytest.raises(RunFailed, match=r"not answered for 60 s: s3://b/x cannot be read: SLOW_DOWN; once it does, `foundray"):
        subject.add(5, "s3://b/x cannot be read: SLOW_DOWN", True)
    assert RunFailed.exit_status == 1


def test_storage_that_is_away_is_known_through_rays_layers() -> None:
    away, fault = StorageAway("s3://b/x cannot be read: SLOW_DOWN"), InputError("no such file")
    for cause, expected in ((away, True), (fault, False)):
        traceback = (
            'Traceback (most recent call last):\n  File "x.py", line 1, in read\nfoundray.errors.' + type(cause).__name__
        )
        inner = RayTaskError("read", f"{traceback}: {cause}", cause)
        assert is_away(inner) is expected
        assert is_away(inner.as_instanceof_cause()) is expected
        assert is_away(RayTaskError("lease", f"{traceback}: {cause}", inner)) is expected
    assert is_away(pickle.loads(pickle.dumps(away)))
