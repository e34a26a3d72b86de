"""Checkpoints under way: workers report their shards, and once these are the whole state its manifest is due."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from foundray.runs.checkpoints import Checkpoint
from foundray.runs.lineage import Lineage, usable
from foundray.training.checkpoints.coverage import problem_of
from foundray.training.protocol.messages import Commit, Decision, Note, Written

RETRY_SECONDS = 1.0
"""Wait before a manifest is tried again."""
REPORT_SECONDS = 30.0
"""Interval between two reports of a failure."""
MAX_PENDING = 16
"""Unfinished checkpoints remembered. Those beyond are the oldest: a shard of theirs was not written and never will be."""


@dataclass
class Pending:
    """A checkpoint that still lacks shards, or its manifest."""

    generation: int
    made_under: str
    parts: dict[str, Written] = field(default_factory=dict)
    """Parts written, by the first file of each."""
    blocks: int = 0
    """Blocks of these parts together."""
    covered: bool = False
    """Whether its shards cover all blocks."""
    retry_at: float = 0.0
    failing_since: float | None = None
    """Time at which writing its manifest first failed."""


class Commits:
    """The checkpoints of one group after another. Each look costs only what is new since the previous one."""

    def __init__(self, storage_wait_s: float, pins: Callable[[int], bool], decide: Callable[[Decision], None]):
        """`pins` tells which steps' checkpoints are kept for good."""
        self.storage_wait_s, self.pins, self.decide = storage_wait_s, pins, decide
        self.problem = "storage does not answer"
        """Why the last manifest could not be written."""
        self.report_at = 0.0
        self.writing: Checkpoint | None = None
        """The checkpoint whose manifest is being written."""
        self.pending: dict[int, Pending] = {}
        """Unfinished checkpoints, by step."""
        self.begin(-1, 0)

    def begin(self, generation: int, blocks: int, start: int = 0, lineage: Lineage = ()) -> None:
        """Follow a new group, which starts from step `start`. The model has `blocks` blocks.

        Whole checkpoints of earlier groups are still completed, except those that were undone, and those of later steps: the
        new group records these steps again, and writes their checkpoints into the same files.
        """
        self.generation, self.blocks = generation, blocks
        self.pending = {step: one for step, one in self.whole(lineage).items() if step <= start}
        self.newest = -1
        """Step of the group's newest complete checkpoint."""
        self.seen: dict[int, tuple[Written, ...]] = {}
        """What each worker had reported at the last look."""
        self.failed: set[tuple[int, str]] = set()
        """(step, reason) of the shards that could not be written."""

    def whole(self, lineage: Lineage) -> dict[int, Pending]:
        """The unfinished checkpoints whose shards are all written, and which no cut has undone."""
        return {step: one for step, one in self.pending.items() if one.covered and usable(step, one.made_under, lineage)}

    def take(self, number: int, written: tuple[Written, ...]) -> None:
        """Take what a worker has written since the last look."""
        before, self.seen[number] = self.seen.get(number, ()), written
        if written is before:
            return
        for part in written:
            if part.generation == self.generation and part.step > self.newest and part not in before:
                self._take_part(part)
        while len(self.pending) > MAX_PENDING:
            del self.pending[min(self.pending, key=lambda step: (self.pins(step), step))]

    def _take_part(self, part: Written) -> None:
        if isinstance(part.shards, str):
            if (part.step, part.shards) not in self.failed:
                self.failed.add((part.step, part.shards))
                self.decide(Note("checkpoint_failed", {"step": part.step, "reason": part.shards}))
            return
        pending = self.pending.setdefault(part.step, Pending(self.generation, part.made_under))
        if pending.generation != self.generation:
            return  # the state that this group started from, which is whole already
        if part.shards[0].file not in pending.parts:
            pending.blocks += sum(stop - start for shard in part.shards for start, stop in shard.ranges)
        pending.parts[part.shards[0].file] = part
        if pending.blocks >= self.blocks:  # not before: with thousands of workers, a look at all parts per part is too much
            shards = [shard for one in pending.parts.values() if not isinstance(one.shards, str) for shard in one.shards]
            pending.covered = not problem_of(((shard.file, shard.ranges, shard.generation) for shard in shards), self.blocks)

    def write_next(self, stored: int, now: float) -> None:
        """Write one manifest at a time, once the records up to its step, `stored`, are stored."""
        if self.writing is None and (step := self._due(now)) is not None and step <= stored:
            pending = self.pending[step]
            self.writing = Checkpoint(step, pending.made_under)
            self.decide(Commit(pending.generation, self.writing, tuple(pending.parts.values())))

    def _due(self, now: float) -> int | None:
        """The step whose manifest is due. Manifests are written in order, or what an earlier one keeps would be lost.

        One that cannot be written holds up later ones for `storage_wait_s`.
        """
        covered = [step for step in sorted(self.pending) if self.pending[step].covered]
        for step in covered:
            since = self.pending[step].failing_since
            if step == covered[-1] or since is None or now - since < self.storage_wait_s:
                return step if now >= self.pending[step].retry_at else None
            reason = f"{self.problem}; giving it up, because later ones are waiting"
            self.decide(Note("checkpoint_failed", {"step": step, "reason": reason}))
            del self.pending[step]
        return None

    def committed(self, generation: int, step: int) -> None:
        self.writing = None
        if step in self.pending and self.pending[step].generation == generation:
            self.newest = max(self.newest, step)
            self.pending = {later: pending for later, pending in self.pending.items() if later > step}

    def not_committed(self, step: int, reason: str, now: float) -> None:
        self.writing, self.problem = None, reason
        if step in self.pending:
            pending = self.pending[step]
            pending.retry_at, pending.failing_since = now + RETRY_SECONDS, pending.failing_since or now
        if now > self.report_at:
            self.report_at = now + REPORT_SECONDS
            self.decide(Note("checkpoint_failed", {"step": step, "reason": reason}))

    def idle(self, stored: int) -> bool:
        """Tell whether no manifest is being written or retried, with steps up to `stored` stored."""
        return self.writing is None and not any(pending.covered and step <= stored for step, pending in self.pending.items())
