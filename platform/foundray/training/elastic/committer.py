"""Makes checkpoints complete: members write their shards, and when all are there the driver writes the manifest."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from foundray.errors import InputError
from foundray.runs.checkpoints import Keep, completed, delete, place, prune, step_of
from foundray.spec import Spec
from foundray.storage import Store
from foundray.training.checkpoints.written import CheckpointManifest, ShardFile, commit, coverage
from foundray.training.elastic.messages import Status, Written

AGAIN_SECONDS = 1.0
TELL_SECONDS = 30.0


BEGUN = 16
"""Checkpoints under way that are remembered; of the oldest beyond, some shard was not written and never will be."""


@dataclass
class _Begun:
    """A checkpoint of which not all shards are written yet, or not the manifest."""

    parts: dict[str, Written] = field(default_factory=dict)
    """By the shard's file."""
    whole: bool = False
    again: float = 0.0
    """Not to be tried before."""
    failing_since: float | None = None
    """When its manifest could not be written for the first time."""


class Committer:
    """Looks at what members say they have written; its own writing happens in a thread, since storage may stall.

    A look costs what is new since the one before, however many checkpoints there have been.
    """

    def __init__(self, spec: Spec, folder: Store, note: Callable[..., None], losses: Callable[[], Mapping[int, float]] = dict):
        """`losses` gives the validation loss by step, as far as it is recorded."""
        self.spec, self.folder, self.note = spec, folder, note
        train = spec.train
        self.keep = Keep(train.keep_checkpoints, train.keep_every, train.keep_best, losses)
        self.complete_ones = completed(folder)
        self.problem = "storage does not answer"
        """Why the last manifest could not be written."""
        self.thread = ThreadPoolExecutor(1)
        self.writing: tuple[int, int, Future[None]] | None = None
        """(generation, step, outcome) of the checkpoint whose manifest is being written."""
        self._begin(-1)
        self.tell, self.not_deleted = 0.0, ""

    def _begin(self, generation: int) -> None:
        """Of a group nothing is known yet."""
        self.generation = generation
        self.seen: dict[int, tuple[Written, ...]] = {}
        """What each member had told when it was looked at last."""
        self.begun: dict[int, _Begun] = {}
        """By step."""
        self.past = -1
        """The step of its newest complete checkpoint."""
        self.failed: set[tuple[int, str]] = set()
        """(step, reason) of the shards that could not be written."""
        self.loaded = -1
        """The step of the checkpoint that it went on from, once that is known."""

    @property
    def steps(self) -> list[int]:
        """Of the complete checkpoints, newest first."""
        return [step_of(old) for old in self.complete_ones]

    def complete(self, generation: int, statuses: list[Status], recorded: int) -> None:
        """Write the manifest of each checkpoint of the group whose shards are all written.

        The record of its steps is on storage first, for the ledger of a resumed run to have no gap.
        """
        if generation != self.generation:
            self._begin(generation)
        for index, status in enumerate(statuses):
            if status.written is not self.seen.get(index):
                self.seen[index] = status.written
                self._take(status)
        self._settle()
        if self.loaded < 0 <= (loaded := max(status.loaded for status in statuses)):
            self.loaded = loaded
            self._count([old for old in self.complete_ones if step_of(old) <= loaded])
        facts = statuses[0].facts
        if self.writing is None and (step := self._due()) is not None and step <= recorded:
            parts = list(self.begun[step].parts.values())
            self.writing = generation, step, self.thread.submit(self._commit, generation, step, parts, facts["parameters"])

    def _due(self) -> int | None:
        """The step whose manifest is to be written now. They are written in order, or what an earlier one keeps would be lost.

        One that cannot be written holds later ones up for `fault.storage_wait_s`.
        """
        now, whole = time.monotonic(), [step for step in sorted(self.begun) if self.begun[step].whole]
        for step in whole:
            begun = self.begun[step]
            if step == whole[-1] or begun.failing_since is None or now - begun.failing_since < self.spec.fault.storage_wait_s:
                return step if now >= begun.again else None
            self.note("checkpoint_failed", step=step, reason=f"{self.problem}; it is given up, for later ones wait")
            del self.begun[step]
        return None

    def _take(self, status: Status) -> None:
        """What a member has told since the last look, among what was known."""
        for part in status.written:
            if part.generation != self.generation or part.step <= self.past:
                continue
            if not isinstance(part.outcome, ShardFile):
                if (part.step, part.outcome) not in self.failed:
                    self.failed.add((part.step, part.outcome))
                    self.note("checkpoint_failed", step=part.step, reason=part.outcome)
                continue
            begun = self.begun.setdefault(part.step, _Begun())
            if part.outcome.file not in begun.parts:
                begun.parts[part.outcome.file] = part
                begun.whole = not coverage(_shards(begun.parts.values()), status.facts["blocks"])
        while len(self.begun) > BEGUN:
            del self.begun[min(self.begun, key=lambda step: (self.spec.train.pins(step), step))]

    def _settle(self) -> None:
        """What became of the manifest that was being written."""
        if self.writing is None or not self.writing[2].done():
            return
        generation, step, future = self.writing
        self.writing = None
        error, now = future.exception(), time.monotonic()
        if error is None:
            if generation == self.generation:
                self.past = max(self.past, step)
                self.begun = {later: begun for later, begun in self.begun.items() if later > step}
            return
        self.problem = str(error)
        if step in self.begun:
            self.begun[step].again = now + AGAIN_SECONDS
            self.begun[step].failing_since = self.begun[step].failing_since or now
        if now > self.tell:
            self.tell = now + TELL_SECONDS
            self.note("checkpoint_failed", step=step, reason=self.problem)

    def _commit(self, generation: int, step: int, parts: list[Written], parameters: list[Any]) -> None:
        began = time.monotonic()
        manifest = CheckpointManifest(
            step=step,
            fingerprint=self.spec.fingerprint(),
            arithmetic=self.spec.arithmetic,
            optimizer=self.spec.optimizer.kind,
            parameters=parameters,
            shards=sorted(_shards(parts), key=lambda shard: shard.ranges[0]),
            losses=list(parts[0].losses),
        )
        commit(self.folder, manifest)
        self._count([place(self.folder, step), *(old for old in self.complete_ones if step_of(old) < step)])
        seconds = max(part.seconds for part in parts) + time.monotonic() - began
        self.note("checkpoint", step=step, bytes=sum(s.bytes for s in manifest.shards), seconds=round(seconds, 3))
        if generation == self.generation:  # or the next group may be writing shards of earlier steps
            self._prune(step)

    def _count(self, complete_ones: list[Store]) -> None:
        """Later ones than these were passed over, as damaged for example. They count no more, so that they neither push good
        ones out nor stand for steps that are done again; they stay until the run writes its own in their place."""
        self.complete_ones = complete_ones

    def _prune(self, step: int) -> None:
        """A checkpoint counts whether older ones can be deleted or not; they are tried again after the next one."""
        try:
            left = {old.name for old in prune(self.folder, self.keep, [old.name for old in self.complete_ones])}
            self.complete_ones = [old for old in self.complete_ones if old.name in left]
            self.not_deleted = ""
        except InputError as error:
            if str(error) != self.not_deleted:
                self.not_deleted = str(error)
                self.note("prune_failed", step=step, reason=self.not_deleted)

    def idle(self, recorded: int) -> bool:
        """Whether no manifest is being written, nor waits to be tried again, after a look with steps `recorded`."""
        return self.writing is None and not any(begun.whole and step <= recorded for step, begun in self.begun.items())

    def drop_after(self, step: int) -> None:
        """Delete the checkpoints of later steps."""
        for later in completed(self.folder):
            if step_of(later) > step:
                with suppress(InputError):
                    delete(later)
        counted = {old.name for old in self.complete_ones}
        self.complete_ones = [old for old in completed(self.folder) if old.name in counted]

    def close(self) -> None:
        self.thread.shutdown(wait=False, cancel_futures=True)


def _shards(parts: Iterable[Written]) -> list[ShardFile]:
    return [part.outcome for part in parts if isinstance(part.outcome, ShardFile)]
