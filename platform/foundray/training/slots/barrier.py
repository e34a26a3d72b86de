"""Ray Train without its barrier: an actor at which workers would meet to report checkpoints, which holders of slots never do.

It would be one more process that imports Ray Train, which takes more than a second of a core.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any
from unittest import mock

NONE = False
"""Stands for the actor, which Ray Train requires to be something other than None."""


@contextmanager
def without_barrier() -> Iterator[None]:
    """Keep Ray Train in this process from starting its barrier. Patches private names: there is no public option."""
    from ray.train.v2._internal.execution.worker_group import state, worker_group

    nothing = SimpleNamespace(options=lambda **_: SimpleNamespace(remote=lambda **_: NONE))
    with (
        mock.patch.object(worker_group, "SynchronizationActor", nothing),
        mock.patch.object(state, "_shutdown_sync_actor", _ignore),
    ):
        yield


def _ignore(barrier: Any) -> None:
    pass
