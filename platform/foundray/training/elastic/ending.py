"""Last work of a run that ends with an error: its steps are recorded and their checkpoints completed."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress

from ray.exceptions import RayError

from foundray.errors import FoundrayError
from foundray.training.elastic.committer import Committer
from foundray.training.elastic.rendezvous import Rendezvous
from foundray.training.elastic.worker_pool import LISTEN_SECONDS, WorkerPool
from foundray.training.telemetry.recorder import Recorder

LAST_SECONDS = 20.0
"""Limit for workers to flush what they have, and for the manifests."""
POLL_SECONDS = 0.05


def keep_what_is_done(
    worker_pool: WorkerPool, rendezvous: Rendezvous, committer: Committer, recorder: Recorder, read_board: Callable[[], None]
) -> None:
    """Wait briefly until what the group did before the error is stored.

    A worker that fails flushes its records and shards before it reports the failure (`Loop.flush`), but the first report
    arrives before the other workers are done.
    """
    # Let the remaining workers finish, then take their last records.
    give_up = time.monotonic() + LAST_SECONDS
    with suppress(RayError):
        while time.monotonic() < give_up:
            phases = {status.phase for status in rendezvous.statuses()}
            if not ("failed" in phases and "running" in phases):
                break
            with suppress(FoundrayError):
                worker_pool.listen(LISTEN_SECONDS)
        with suppress(FoundrayError):
            read_board()
    # Store the records before the manifests of the checkpoints that they belong to.
    statuses = rendezvous.statuses()
    if not any(status.written for status in statuses):
        return
    with suppress(FoundrayError):  # a failure here is not the cause of the run's end
        recorder.record_writer.settle(LAST_SECONDS)
        while time.monotonic() < give_up:
            committer.complete(rendezvous.generation, statuses, recorder.stored_step)
            if committer.idle(recorder.stored_step):
                break
            time.sleep(POLL_SECONDS)
