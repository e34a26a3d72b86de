"""Writes a worker's state shards to storage while the next steps run; the coordinator completes the checkpoints."""

from __future__ import annotations

import time
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import TYPE_CHECKING

from foundray.errors import InputError, RunFailed
from foundray.spec import Spec
from foundray.storage import Store
from foundray.training.checkpoints.checkpoint import State, write_shard
from foundray.training.checkpoints.written import ShardFile
from foundray.training.protocol.messages import Written
from foundray.training.slots.board import Journal
from foundray.training.step.blocks import Blocks
from foundray.training.step.guards import Losses
from foundray.training.step.trainer import Trainer

if TYPE_CHECKING:
    from foundray.training.elastic.worker import Worker

POLL_SECONDS = 0.05
RETRY_SECONDS = 0.5
"""Interval between two attempts to write what must be written."""
MAX_REPORTED, MAX_FILES = 32, 64
"""Checkpoints that a worker reports, and files of those before the last two: more than are written between two looks of the
driver, and few enough for every look."""


class ShardWriter:
    """Writes one shard at a time, in a thread."""

    def __init__(self, run: str, spec: Spec, trainer: Trainer, worker: Worker, journal: Journal):
        self.run, self.folder = run, Store.at(run) / "checkpoints"
        self.spec, self.trainer, self.worker, self.journal = spec, trainer, worker, journal
        self.thread = ThreadPoolExecutor(1)
        self.writing: Future[None] | None = None
        self.saved: int | None = None
        """Step of the last state that was handed over to be written, or that was loaded."""

    def save(self, step: int, generation: int, made_under: str, tensors: State, last: bool, pinned: bool = False) -> None:
        """Write this worker's shard of the state after `step` while the next steps run; nothing may change `tensors` meanwhile.

        `made_under` is the id of the run's last cut. `last` marks the checkpoint that the run ends or stops with, which nothing
        can replace. `pinned` marks one to keep: the steps wait until the previous one is written.
        """
        # Only one shard is written at a time: wait for the previous one, or skip this one.
        if self.writing and last:
            self.finish()
        elif self.writing and not self.writing.done():
            if not pinned:
                self.journal.event("checkpoint_late", step=step, reason="the previous one is still being written")
                return
            if not self._wait():
                seconds = self.spec.fault.storage_wait_s
                reason = f"it was to be kept, but the previous one was not written within {seconds:.0f} s"
                return self._report(Written(generation, step, made_under, reason, seconds))
        self.saved = step
        blocks = self.trainer.blocks
        losses = self.trainer.spikes.window() if self.trainer.own.start == 0 else ()  # one worker's is enough
        self.writing = self.thread.submit(self._write, generation, step, made_under, blocks, tensors, losses, last, pinned)

    def _wait(self) -> bool:
        """Wait for the previous shard; tell whether it was written in time. Raises RuntimeError if the group breaks."""
        until = time.monotonic() + self.spec.fault.storage_wait_s
        while self.writing and not wait([self.writing], POLL_SECONDS).done:
            self.trainer.group.check()
            if time.monotonic() > until:
                return False
        return True

    def _write(
        self,
        generation: int,
        step: int,
        made_under: str,
        blocks: Blocks,
        tensors: State,
        losses: Losses,
        last: bool,
        pinned: bool,
    ) -> None:
        """Write in the thread. The last checkpoint, or one to keep, is retried for a while."""
        began = time.monotonic()

        def should_retry() -> bool:
            wanted = last or (pinned and generation == self.worker.status.generation)
            return wanted and time.monotonic() - began <= self.spec.fault.storage_wait_s

        while True:
            try:
                outcome: tuple[ShardFile, ...] | str = write_shard(self.folder, step, blocks, tensors, generation, made_under)
                break
            except InputError as error:
                outcome = str(error)
            if not should_retry():
                break
            time.sleep(RETRY_SECONDS)
        self._report(Written(generation, step, made_under, outcome, time.monotonic() - began, losses))
        if last and isinstance(outcome, str):
            raise self._not_stored(f"the checkpoint of step {step} could not be written: {outcome}")

    def _report(self, written: Written) -> None:
        """Report a shard to the coordinator, which looks at what the current group writes."""
        with self.worker.changed:
            if written.generation == self.worker.status.generation:
                reported = [*self.worker.status.written[-MAX_REPORTED:], written]
                while (
                    len(reported) > 2
                    and sum(len(one.shards) for one in reported if not isinstance(one.shards, str)) > MAX_FILES
                ):
                    del reported[0]
                self.worker.set_status(written=tuple(reported))

    def finish(self) -> None:
        """Wait for the thread. Raises RunFailed if the shard cannot be written or storage does not answer."""
        if self.writing:
            try:
                self.writing.result(timeout=self.spec.fault.storage_wait_s + 10)
            except TimeoutError:
                seconds = self.spec.fault.storage_wait_s
                raise self._not_stored(f"{self.folder} has not answered for {seconds:.0f} s") from None

    def _not_stored(self, reason: str) -> RunFailed:
        return RunFailed(f"{reason}; `foundray resume {self.run}` continues from the last checkpoint")
