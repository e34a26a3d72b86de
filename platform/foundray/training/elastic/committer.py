"""Completes checkpoints, and deletes those that need not be kept, in a thread: storage may stall.

Which are due is the protocol's decision (`protocol.commits`).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from typing import Any

from foundray.errors import InputError
from foundray.runs.checkpoints import Checkpoint, Keep, delete, folders, is_undone, place, prune, state_of
from foundray.runs.lineage import Lineage
from foundray.spec import Spec
from foundray.storage import Store
from foundray.training.checkpoints.written import CheckpointManifest, commit
from foundray.training.protocol.messages import Commit, Committed, Event, NotCommitted, Pruned


class Committer:
    def __init__(
        self,
        spec: Spec,
        folder: Store,
        note: Callable[..., None],
        losses: Callable[[], Mapping[int, float]] = dict,
        lineage: Lineage = (),
        rechecked: Callable[[], int] = int,
    ):
        """`losses` returns the recorded validation losses by step, and `rechecked` the last step that a recheck has passed;
        `lineage` holds the run's cuts.
        """
        self.spec, self.folder, self.note, self.lineage = spec, folder, note, lineage
        self.keep = Keep.by(spec, losses, rechecked)
        self.thread = ThreadPoolExecutor(1)
        self.writing: tuple[Commit, Future[list[Event]]] | None = None
        self.not_deleted = ""
        self.generation = 0
        """The present group, which may be writing shards of earlier steps than the checkpoints of those before it."""

    def write(self, wanted: Commit, parameters: list[Any], others: list[Checkpoint]) -> None:
        """Begin to write a manifest; `others` are the complete and usable checkpoints."""
        self.writing = wanted, self.thread.submit(self._write, wanted, parameters, others)

    def poll(self) -> list[Event]:
        """What has been done since the last call."""
        if self.writing is None or not self.writing[1].done():
            return []
        (wanted, future), self.writing = self.writing, None
        if error := future.exception():
            return [NotCommitted(wanted.checkpoint, str(error))]
        return future.result()

    def _write(self, wanted: Commit, parameters: list[Any], others: list[Checkpoint]) -> list[Event]:
        began, checkpoint = time.monotonic(), wanted.checkpoint
        shards = [shard for part in wanted.parts if not isinstance(part.shards, str) for shard in part.shards]
        manifest = CheckpointManifest(
            step=checkpoint.step,
            fingerprint=self.spec.fingerprint(),
            arithmetic=self.spec.arithmetic,
            optimizer=self.spec.optimizer.kind,
            parameters=parameters,
            shards=sorted(shards, key=lambda shard: shard.ranges[0]),
            lineage=checkpoint.made_under,
            losses=next((list(part.losses) for part in wanted.parts if part.losses), []),
        )
        made = checkpoint._replace(sha256=commit(self.folder, manifest))
        seconds = max(part.seconds for part in wanted.parts) + time.monotonic() - began
        size = sum(shard.bytes for shard in shards)
        self.note("checkpoint", step=checkpoint.step, bytes=size, seconds=round(seconds, 3))
        pruned = self._prune(made, others) if wanted.generation == self.generation else []
        return [Committed(wanted.generation, made), *pruned]

    def _prune(self, made: Checkpoint, others: list[Checkpoint]) -> list[Event]:
        """Delete what need not be kept. A failure does not affect this checkpoint; deletion is retried after the next one."""
        counted = {place(self.folder, *one.name).name: one for one in [*others, made]}
        try:
            left = {state_of(old) for old in prune(self.folder, self.keep, counted)}
            self._delete_undone()
            self.not_deleted = ""
        except InputError as error:
            if str(error) != self.not_deleted:
                self.not_deleted = str(error)
                self.note("prune_failed", step=made.step, reason=self.not_deleted)
            return []
        return [Pruned(frozenset(one for one in counted.values() if one.name not in left))]

    def follow(self, lineage: Lineage) -> None:
        """Delete the checkpoints that the run's cuts have undone, on which nothing depends."""
        self.lineage = lineage
        self._delete_undone()

    def _delete_undone(self) -> None:
        with suppress(InputError):
            for old in folders(self.folder):
                if is_undone(old, self.lineage):
                    delete(old)

    def close(self) -> None:
        self.thread.shutdown(wait=False, cancel_futures=True)
