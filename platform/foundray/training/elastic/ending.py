"""What is still done when a run ends with an error: the steps before it are recorded, and their checkpoints completed."""

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
"""For the members to hand in what they have, and for the manifests."""
AGAIN_SECONDS = 0.05


def keep_what_is_done(
    worker_pool: WorkerPool, rendezvous: Rendezvous, committer: Committer, recorder: Recorder, read_board: Callable[[], None]
) -> None:
    """Wait, not for long, until what the group did before the error is on storage.

    A member that fails hands in its records and shards before it says so (`Loop.hand_in`), but the first one that says so
    is heard before the others are done.
    """
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
    statuses = rendezvous.statuses()
    if not any(status.written for status in statuses):
        return
    with suppress(FoundrayError):  # nothing that fails here is the cause of the end
        recorder.record_writer.settle(LAST_SECONDS)
        while time.monotonic() < give_up:
            committer.complete(rendezvous.generation, statuses, recorder.kept)
            if committer.idle(recorder.kept):
                break
            time.sleep(AGAIN_SECONDS)
