"""Last work of a run that ends with an error: its steps are recorded and their checkpoints completed."""

from __future__ import annotations

import time
from contextlib import suppress
from typing import TYPE_CHECKING

from ray.exceptions import RayError

from foundray.errors import FoundrayError
from foundray.training.protocol.messages import Phase, Tick

if TYPE_CHECKING:
    from foundray.training.elastic.coordinator import Coordinator

LAST_SECONDS = 20.0
"""Limit for workers to flush what they have, and for the manifests."""
POLL_SECONDS = 0.05


def keep_what_is_done(coordinator: Coordinator) -> None:
    """Wait briefly until what the group did before the error is stored.

    A worker that fails flushes its records and shards before it reports the failure (`Loop.flush`), but the first report
    arrives before the other workers are done.
    """
    give_up = time.monotonic() + LAST_SECONDS
    protocol, recorder = coordinator.protocol, coordinator.recorder
    # Let the remaining workers finish, then take their last records.
    with suppress(RayError):
        while time.monotonic() < give_up and protocol.phases >= {Phase.FAILED, Phase.RUNNING}:
            coordinator.take(coordinator.workers.listen(POLL_SECONDS))
        with suppress(FoundrayError):
            coordinator.read_board()
    # Store the records before the manifests of the checkpoints that they belong to.
    if not protocol.commits.pending:
        return
    with suppress(FoundrayError):  # a failure here is not the cause of the run's end
        recorder.record_writer.settle(LAST_SECONDS)
        while time.monotonic() < give_up:
            coordinator.take([*coordinator.last_events(), Tick()])
            if protocol.commits.idle(recorder.stored_step):
                break
            time.sleep(POLL_SECONDS)
