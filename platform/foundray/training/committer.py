"""Makes checkpoints complete: members write their shards, and when all are there the driver writes the manifest."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from typing import Any

from foundray.errors import InputError
from foundray.spec import Spec
from foundray.storage import Store
from foundray.training.checkpoint import CheckpointManifest, ShardFile, commit, completed, completed_steps, step_of
from foundray.training.guards import Losses
from foundray.training.orders import Status

AGAIN_SECONDS = 1.0
TELL_SECONDS = 30.0


class Committer:
    """Looks at what members say they have written; its own writing happens in a thread, since storage may stall."""

    def __init__(self, spec: Spec, folder: Store, note: Callable[..., None]):
        self.spec, self.folder, self.note = spec, folder, note
        self.steps = completed_steps(folder)
        """Of the complete checkpoints."""
        self.problem = "storage does not answer"
        """Why the last manifest could not be written."""
        self.thread = ThreadPoolExecutor(1)
        self.commits: dict[tuple[int, int], Future[None]] = {}
        self.told: set[tuple[int, int, int]] = set()
        self.again, self.tell = 0.0, 0.0

    def complete(self, generation: int, statuses: list[Status], recorded: int) -> None:
        """Write the manifest of each checkpoint of the group whose shards are all written.

        The record of its steps is on storage first, for the ledger of a resumed run to have no gap.
        """
        written = [(rank, *part) for rank, status in enumerate(statuses) for part in status.written]
        for rank, of, step, outcome, *_ in written:
            if isinstance(outcome, str) and (rank, of, step) not in self.told:
                self.told.add((rank, of, step))
                self.note("checkpoint_failed", step=step, reason=outcome)
        facts = statuses[0].facts
        windows = {step: losses for _, _, step, *_, losses in written}
        for step, losses in windows.items():
            shards = [(shard, took) for _, _, at, shard, took, _ in written if at == step and isinstance(shard, ShardFile)]
            whole = sum(shard.blocks for shard, _ in shards) == facts["blocks"]
            if whole and step <= recorded and (generation, step) not in self.commits:
                self.commits[generation, step] = self.thread.submit(self._commit, step, shards, facts["parameters"], losses)
        self._try_again()

    def _commit(self, step: int, shards: list[tuple[ShardFile, float]], parameters: list[Any], losses: Losses) -> None:
        began = time.monotonic()
        manifest = CheckpointManifest(
            step=step,
            fingerprint=self.spec.fingerprint(),
            arithmetic=self.spec.arithmetic,
            optimizer=self.spec.optimizer.kind,
            parameters=parameters,
            shards=sorted((shard for shard, _ in shards), key=lambda shard: shard.first_block),
            losses=list(losses),
        )
        commit(self.folder, manifest, self.spec.train.keep_checkpoints)
        seconds = max(took for _, took in shards) + time.monotonic() - began
        self.note("checkpoint", step=step, bytes=sum(s.bytes for s in manifest.shards), seconds=round(seconds, 3))
        self.steps = [*self.steps, step]

    def _try_again(self) -> None:
        now = time.monotonic()
        for key, future in list(self.commits.items()):
            if future.done() and (error := future.exception()):
                self.problem = str(error)
                if now > self.again:
                    self.again = now + AGAIN_SECONDS
                    del self.commits[key]
                if now > self.tell:
                    self.tell = now + TELL_SECONDS
                    self.note("checkpoint_failed", step=key[1], reason=self.problem)

    def idle(self) -> bool:
        """Whether no manifest is being written."""
        return all(future.done() for future in self.commits.values())

    def drop_after(self, step: int) -> None:
        """Delete the checkpoints of later steps."""
        for place in completed(self.folder):
            if step_of(place) > step:
                with suppress(InputError):
                    place.delete_folder()
        self.steps = completed_steps(self.folder)

    def close(self) -> None:
        self.thread.shutdown(wait=False, cancel_futures=True)
