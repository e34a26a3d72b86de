"""Completes checkpoints: workers write their shards, and once all are stored the driver writes the manifest."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from foundray.errors import InputError
from foundray.runs.checkpoints import Keep, completed, delete, folders, is_undone, is_usable, place, prune, step_of
from foundray.runs.lineage import Lineage, under
from foundray.spec import Spec
from foundray.storage import Store
from foundray.training.checkpoints.written import CheckpointManifest, ShardFile, commit, coverage
from foundray.training.elastic.messages import Status, Written

RETRY_SECONDS = 1.0
"""Wait before a manifest is tried again."""
REPORT_SECONDS = 30.0
"""Interval between two reports of a failure."""
MAX_PENDING = 16
"""Unfinished checkpoints remembered. Those beyond are the oldest: a shard of theirs was not written and never will be."""


@dataclass
class _PendingCheckpoint:
    """A checkpoint that still lacks shards, or its manifest."""

    parts: dict[str, Written] = field(default_factory=dict)
    """Parts written, by the shard's file."""
    covered: bool = False
    """Whether its shards cover all blocks."""
    retry_at: float = 0.0
    """Time before which the manifest is not tried again."""
    failing_since: float | None = None
    """Time at which writing its manifest first failed."""


class Committer:
    """Follows what workers report as written; writes manifests in a thread, since storage may stall.

    Each look costs only what is new since the previous one, however many checkpoints there have been.
    """

    def __init__(
        self,
        spec: Spec,
        folder: Store,
        note: Callable[..., None],
        losses: Callable[[], Mapping[int, float]] = dict,
        lineage: Lineage = (),
    ):
        """`losses` returns the recorded validation losses by step; `lineage` holds the run's cuts."""
        self.spec, self.folder, self.note = spec, folder, note
        train = spec.train
        self.keep = Keep(train.keep_checkpoints, train.keep_every, train.keep_best, losses)
        self.lineage = lineage
        self.checkpoints = completed(folder, lineage)
        self.problem = "storage does not answer"
        """Why the last manifest could not be written."""
        self.thread = ThreadPoolExecutor(1)
        self.writing: tuple[int, int, Future[None]] | None = None
        """(generation, step, outcome) of the checkpoint whose manifest is being written."""
        self._begin(-1)
        self.report_at, self.not_deleted = 0.0, ""

    def _begin(self, generation: int) -> None:
        """Start following a new group."""
        self.generation = generation
        self.seen: dict[int, tuple[Written, ...]] = {}
        """What each worker had reported at the last look."""
        self.pending: dict[int, _PendingCheckpoint] = {}
        """Unfinished checkpoints, by step."""
        self.newest = -1
        """Step of the group's newest complete checkpoint."""
        self.failed: set[tuple[int, str]] = set()
        """(step, reason) of the shards that could not be written."""
        self.loaded = -1
        """Step of the checkpoint that the group loaded; -1 until that is known."""

    @property
    def steps(self) -> list[int]:
        """Steps of the complete and usable checkpoints, newest first."""
        return [step_of(old) for old in self._counted()]

    def _counted(self) -> list[Store]:
        """The complete checkpoints that no cut has undone, newest first; a commit in flight may have added an undone one."""
        return [old for old in self.checkpoints if is_usable(old, self.lineage)]

    def complete(self, generation: int, statuses: list[Status], recorded: int) -> None:
        """Write the manifest of each of the group's checkpoints whose shards are all written.

        The records of its steps are stored first, so that the log of a resumed run has no gap.
        """
        if generation != self.generation:
            self._begin(generation)
        # Take what the workers have written since the last look, and the result of the last manifest.
        for index, status in enumerate(statuses):
            if status.written is not self.seen.get(index):
                self.seen[index] = status.written
                self._take_written(status)
        self._collect()
        # Checkpoints later than the one the group loaded no longer count.
        if self.loaded < 0 <= (loaded := max(status.loaded for status in statuses)):
            self.loaded = loaded
            self._set_checkpoints([old for old in self.checkpoints if step_of(old) <= loaded])
        # Write one manifest at a time, once the records up to its step are stored.
        facts = statuses[0].facts
        if self.writing is None and (step := self._next_step()) is not None and step <= recorded:
            parts, made_under = list(self.pending[step].parts.values()), under(self.lineage)
            future = self.thread.submit(self._commit, generation, step, made_under, parts, facts["parameters"])
            self.writing = generation, step, future

    def _next_step(self) -> int | None:
        """Return the step whose manifest is due. Manifests are written in order, or what an earlier one keeps would be lost.

        One that cannot be written holds up later ones for `fault.storage_wait_s`.
        """
        now, covered = time.monotonic(), [step for step in sorted(self.pending) if self.pending[step].covered]
        for step in covered:
            pending = self.pending[step]
            if (
                step == covered[-1]
                or pending.failing_since is None
                or now - pending.failing_since < self.spec.fault.storage_wait_s
            ):
                return step if now >= pending.retry_at else None
            self.note("checkpoint_failed", step=step, reason=f"{self.problem}; giving it up, because later ones are waiting")
            del self.pending[step]
        return None

    def _take_written(self, status: Status) -> None:
        """Take what a worker has written since the last look."""
        for part in status.written:
            if part.generation != self.generation or part.step <= self.newest:
                continue
            if not isinstance(part.outcome, ShardFile):
                if (part.step, part.outcome) not in self.failed:
                    self.failed.add((part.step, part.outcome))
                    self.note("checkpoint_failed", step=part.step, reason=part.outcome)
                continue
            pending = self.pending.setdefault(part.step, _PendingCheckpoint())
            if part.outcome.file not in pending.parts:
                pending.parts[part.outcome.file] = part
                pending.covered = not coverage(_shards(pending.parts.values()), status.facts["blocks"])
        while len(self.pending) > MAX_PENDING:
            del self.pending[min(self.pending, key=lambda step: (self.spec.train.pins(step), step))]

    def _collect(self) -> None:
        """Take the result of the manifest that was being written."""
        if self.writing is None or not self.writing[2].done():
            return
        generation, step, future = self.writing
        self.writing = None
        error, now = future.exception(), time.monotonic()
        if error is None:
            if generation == self.generation:
                self.newest = max(self.newest, step)
                self.pending = {later: pending for later, pending in self.pending.items() if later > step}
            return
        self.problem = str(error)
        if step in self.pending:
            self.pending[step].retry_at = now + RETRY_SECONDS
            self.pending[step].failing_since = self.pending[step].failing_since or now
        if now > self.report_at:
            self.report_at = now + REPORT_SECONDS
            self.note("checkpoint_failed", step=step, reason=self.problem)

    def _commit(self, generation: int, step: int, made_under: str, parts: list[Written], parameters: list[Any]) -> None:
        began = time.monotonic()
        manifest = CheckpointManifest(
            step=step,
            fingerprint=self.spec.fingerprint(),
            arithmetic=self.spec.arithmetic,
            optimizer=self.spec.optimizer.kind,
            parameters=parameters,
            shards=sorted(_shards(parts), key=lambda shard: shard.ranges[0]),
            lineage=made_under,
            losses=list(parts[0].losses),
        )
        commit(self.folder, manifest)
        self._set_checkpoints([place(self.folder, step, made_under), *(old for old in self.checkpoints if step_of(old) < step)])
        seconds = max(part.seconds for part in parts) + time.monotonic() - began
        self.note("checkpoint", step=step, bytes=sum(s.bytes for s in manifest.shards), seconds=round(seconds, 3))
        if generation == self.generation:  # otherwise the next group may be writing shards of earlier steps
            self._prune(step)

    def _set_checkpoints(self, checkpoints: list[Store]) -> None:
        """Set the checkpoints that count.

        Later ones were skipped, for example as damaged. They must not push good ones out or stand for steps that are repeated;
        they stay in storage until the run overwrites them.
        """
        self.checkpoints = checkpoints

    def _prune(self, step: int) -> None:
        """Delete what need not be kept. A failure does not affect this checkpoint; deletion is retried after the next one."""
        try:
            left = {old.name for old in prune(self.folder, self.keep, [old.name for old in self._counted()])}
            self.checkpoints = [old for old in self.checkpoints if old.name in left]
            self._delete_undone()
            self.not_deleted = ""
        except InputError as error:
            if str(error) != self.not_deleted:
                self.not_deleted = str(error)
                self.note("prune_failed", step=step, reason=self.not_deleted)

    def idle(self, recorded: int) -> bool:
        """Tell whether no manifest is being written or retried, with steps up to `recorded` stored."""
        return self.writing is None and not any(pending.covered and step <= recorded for step, pending in self.pending.items())

    def follow(self, lineage: Lineage) -> None:
        """Leave out the checkpoints that the run's cuts have undone, and delete them, on which nothing depends."""
        self.lineage = lineage
        self._delete_undone()

    def _delete_undone(self) -> None:
        with suppress(InputError):
            for old in folders(self.folder):
                if is_undone(old, self.lineage):
                    delete(old)

    def close(self) -> None:
        self.thread.shutdown(wait=False, cancel_futures=True)


def _shards(parts: Iterable[Written]) -> list[ShardFile]:
    return [part.outcome for part in parts if isinstance(part.outcome, ShardFile)]
