"""The training loop: join a group with its state, step until done or told otherwise, look after copies of the state."""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import ray
import torch
from torch import Tensor

from foundray.data.stream.leases import TRAINING, MicroBatchSource
from foundray.data.stream.plan import read_micro_batches
from foundray.errors import FoundrayError, InputError, RunFailed
from foundray.host.devices import traits
from foundray.model.model import Model
from foundray.records.takers import runs
from foundray.spec import Spec
from foundray.storage import Store
from foundray.training.checkpoints.checkpoint import load_latest, weights_sha256, write_shard
from foundray.training.checkpoints.interval import Interval
from foundray.training.checkpoints.written import ShardFile
from foundray.training.collectives.group import Group
from foundray.training.elastic.canary import differences, kind
from foundray.training.elastic.evaluations import Evaluations
from foundray.training.elastic.messages import Order, Work, Written
from foundray.training.elastic.recovery import StateShard
from foundray.training.elastic.replicas import as_arrays, restore
from foundray.training.rollback import next_turn, passed_over
from foundray.training.slots.board import Journal
from foundray.training.step.guards import Losses, Spike
from foundray.training.step.outcome import Overflow, StepResult
from foundray.training.step.trainer import Trainer, named_weights
from foundray.training.warm_start.starting import begin

if TYPE_CHECKING:
    from foundray.training.elastic.worker import Worker

MIRROR_BEAT_SECONDS = 0.05
MIRROR_STEPS = 2
"""Between two mirrorings, at least, where the spec leaves that to us."""
AGAIN_SECONDS = 0.5
"""Between two tries to write what must be written."""
WRITTEN = 32
"""Checkpoints of which a member tells: more than are written between two looks of the driver."""


class Loop:
    """One member's work, group after group."""

    def __init__(self, work: Work, member: Worker):
        began = time.monotonic()
        self.member, self.work = member, work
        self.spec = spec = Spec.model_validate_json(work.spec_json)
        torch.set_num_threads(spec.scale.worker_threads)
        objective = spec.objective.build()
        model = Model(spec.model, objective, spec.unit_shape(work.classes))
        model.to(member.device)
        self.trainer = Trainer(spec, model, objective)
        self.trainer.read = lambda position: next(read_micro_batches(work.plan, position, 1))
        self.evaluations = Evaluations(work, spec, self.trainer)
        self.checkpoints = Store.at(work.run) / "checkpoints"
        self.journal = Journal(work.board)
        self.writer = ThreadPoolExecutor(1)
        self.writing: Future[None] | None = None
        self.mirroring: list[Any] = []
        self.mirrored: int | None = None
        """The step of the last state that this group has mirrored."""
        self.interval = Interval()
        self.mirror_began = 0.0
        """When it did."""
        self.saving = self.mirror_due = False
        """Whether all agreed on a checkpoint, and on mirroring, after the step that was done last."""
        self.generation = 0
        """Of the group in which the state was last moved."""
        self.done = 0
        self.copied = 0.0
        """Seconds that copying the state took before this step."""
        self.kind = kind(spec.model, objective.causal, self.trainer.device)
        self.warm_s = time.monotonic() - began

    def facts(self) -> dict[str, Any]:
        layout = self.trainer.layout
        return {
            "blocks": layout.blocks,
            "parameters": [(e.name, list(e.shape), e.first) for e in layout.entries],
            "device": str(self.trainer.device),
            **self.kind,
            "free_bytes": traits(self.trainer.device).free_bytes(self.trainer.device),
            "model_s": round(self.warm_s, 3),
        }

    # Joining and leaving a group

    def join(self, order: Order) -> None:
        began = time.perf_counter()
        self.order = order
        self.mirroring, self.mirrored = [], None
        self.member.memory.drop_after(order.trusted)
        group = self.member.group = Group.gather_at(order.rendezvous, order.rank, order.world, self.trainer.device)
        self.trainer.take_part(group, order.bounds)
        taken: dict[str, Any] = {}
        if order.source is not None:
            self.done = restore(self.trainer, group, order.source, self.member.memory)
            skipped, losses = [], order.source.losses
        else:
            self.trainer.initialise()
            restored = load_latest(self.checkpoints, self.trainer, self.spec.fingerprint(), self.spec.fault.storage_wait_s)
            self.done, skipped = restored.step, restored.skipped
            self.member.say(loaded=self.done)
            losses = order.losses if restored.losses is None else tuple(restored.losses)
            if not self.done and (wanted := self.spec.init_from):
                taken = begin(self.trainer, Store.at(self.work.run), wanted, self.work.classes).facts(wanted)
        self.trainer.updates = self.done
        self.trainer.spikes.restore(dict(losses).items(), self.done)
        self.generation = order.generation
        self.passed_over = passed_over(order.roll_backs, self.done)
        self.until = next_turn(order.roll_backs, self.done) or self.spec.train.steps
        self.saving = self.mirror_due = False
        self.saved = None if order.source else self.done
        self.interval.begin(self.done)
        self.evaluations.begin(order)
        self.journal.begin(order.rank == 0, order.recorded, order.evaluated, self.done)
        if taken:
            self.journal.event("initialised", step=0, **taken)
        for reason in skipped:
            self.journal.event("checkpoint_skipped", step=self.done, reason=reason, going_on_from=self.done)
        self.journal.event(
            "workers_started",
            step=self.done,
            workers=order.world,
            device=str(self.trainer.device),
            state="memory" if order.source else "storage",
            peak_flops=order.peak_flops,
            seconds=round(time.perf_counter() - began, 3),
        )
        self.evaluated = order.evaluated
        self._agree(group)
        if self.done and order.world > 1:
            self._mirror(self.trainer.state_shard())

    def _agree(self, group: Group) -> None:
        """On whether all compute alike."""
        kinds = group.share(self.kind)
        self.trainer.alike = not (differing := differences(kinds))
        if differing and self.spec.train.exact:
            reason = f"the hardware is of {len({str(one) for one in kinds})} kinds ({differing})"
            self.journal.event("unlike", step=self.done, reason=reason)

    def leave(self) -> None:
        """Keep the live piece for the next group, and let go of the old one, which wakes whoever still waits in it."""
        if self.trainer.updates == self.done + 1 and self.trainer.result:  # it broke between the update and the gathering
            self._count(self.trainer.result, 0.0)
        if self.trainer.updates:
            self.member.memory.keep(self._live(), self.trainer.state_shard(), own=True)
        self.member.group = None
        self.trainer.group.leave()

    def _live(self) -> StateShard:
        blocks = self.trainer.blocks
        return StateShard(self.trainer.updates or 0, self.generation, blocks.start, blocks.stop, self.trainer.spikes.window())

    # The loop

    def run(self) -> dict[str, Any]:
        """Until the run's last step, or until all stop. Gives the phase that follows."""
        train = self.spec.train
        first, end = self.done + self.passed_over, (self.until + self.passed_over) * train.micro_batches
        feeder, generation = self.work.feeder, self.order.generation
        plan, rank = self.work.plan, self.order.rank
        source = MicroBatchSource(feeder, generation, TRAINING, plan, train.micro_batches, first, end, rank)
        while True:
            self._look_after()
            if self.done == train.steps:
                break
            if self.done == self.until:
                return self._paused()
            self.began = time.perf_counter()
            try:
                leave, save = self.member.leaving.is_set(), self.member.saving.is_set() or self._checkpoint_pays()
                mirror = self._mirroring_pays()
                result = self.trainer.step(self.done, self._micro_batches(source), leave, save, mirror, self.passed_over)
            except Overflow as overflow:
                raise self._explained(overflow) from None
            except Spike:
                self.journal.close()  # or what is undone could arrive after what is done in its place
                raise
            self._count(result, source.take_waited())
            if result.unchecked:
                self.journal.event("recheck_skipped", step=self.done, reason=result.unchecked)
            self.saving, self.mirror_due = result.saving, result.mirroring
            if result.leaving and self.done < train.steps:
                if result.saving and len(self.trainer.blocks):
                    self._save(self.trainer.state_shard(), last=True)
                    self._settle_writing()
                return self._paused()
        self._settle_writing()
        self.journal.close()
        sha = weights_sha256(named_weights(self.trainer.flat)) if self.order.rank == 0 else None
        return {"phase": "finished", "facts": {"weights_sha256": sha}}

    def hand_in(self) -> None:
        """The run is to end with an error: let the records of the steps before it, and the shards under way, come through."""
        with suppress(FoundrayError):
            self._settle_writing()
        with suppress(ray.exceptions.RayError):
            self.journal.close()

    def _paused(self) -> dict[str, Any]:
        """All stop here, and go on in another group."""
        self._settle_mirror()
        self.journal.close()
        return {"phase": "paused", "done": self.done}

    def _look_after(self) -> None:
        """What is due after a step, or when joining there: evaluation, checkpoint, mirror."""
        train, last = self.spec.train, self.done == self.spec.train.steps

        def due(every: int | None) -> bool:
            return last or (every is not None and self.done > 0 and self.done % every == 0)

        if due(train.evaluate_every) and self.evaluated < self.done:
            self.journal.record(self.evaluations.evaluate(self.done))
            self.evaluated = self.done
        every = train.checkpoint_every
        wanted = last or (self.saving if every == "auto" else due(every))
        pinned = last or (self.done > 0 and train.pins(self.done))
        save = (wanted or pinned) and self.saved != self.done and len(self.trainer.blocks) > 0
        mirror = self.mirror_due or due(self.spec.fault.mirror_every)
        mirror = (mirror and self.order.mirror is not None) or due(self.spec.guard.roll_back)
        began = time.perf_counter()
        if save or mirror:
            tensors = self.trainer.state_shard()
            if mirror:
                self._mirror(tensors)
            if save:
                self._save(tensors, last, pinned)
                self.interval.saved(self.done, time.perf_counter() - began)
        self.copied = time.perf_counter() - began

    def _checkpoint_pays(self) -> bool:
        """Whether rank 0, for all, wishes a checkpoint after the step under way, where the interval is left to us."""
        wanted = self.spec.train.checkpoint_every == "auto" and self.order.rank == 0
        return wanted and self.interval.pays(self.done + 1, self.order.failures)

    def _mirroring_pays(self) -> bool:
        """Whether rank 0, for all, wishes the state to be mirrored after the step under way, if the interval is left to us."""
        if self.spec.fault.mirror_every or self.order.rank or self.order.mirror is None:
            return False
        steps = self.done + 1 - (self.mirrored or 0)
        return steps >= MIRROR_STEPS and time.monotonic() - self.mirror_began >= self.order.mirror_s

    def _micro_batches(self, source: MicroBatchSource) -> Iterator[tuple[int, bytes]]:
        yield from source.step(self.done + self.passed_over)
        self._settle_mirror()  # before this step can be counted, or more than `mirror_every` could be lost

    def _count(self, result: StepResult, waited: float) -> None:
        """One more step is done."""
        self.done += 1
        seconds = time.perf_counter() - self.began
        self.evaluations.prefetch(self.done, seconds)
        self.journal.record(
            {
                "step": self.done,
                "tokens": self.done * self.spec.tokens_per_step,
                "loss": result.loss,
                "grad_norm": result.grad_norm,
                "lr": result.lr,
                "step_s": round(seconds, 6),
                "data_wait_s": round(waited, 6),
                "copy_s": round(self.copied, 6),
                "tokens_per_s": round(self.spec.tokens_per_step / seconds, 1),
                "workers": self.order.world,
                "takers": runs(result.takers),
                "skipped": result.skipped,
                "spike": result.spike,
                "data": result.data,
                "passed_over": self.passed_over,
                "lineage": "",
                "mirrored": self.mirrored,
            }
        )

    # Copies of the state

    def _mirror(self, tensors: dict[str, Tensor]) -> None:
        self._settle_mirror()
        self.mirror_began = time.monotonic()
        piece = self._live()
        self.member.memory.keep(piece, tensors, own=True)
        if self.order.mirror is not None:
            self.mirroring = [self.order.mirror.hold.remote(piece, as_arrays(tensors))]

    def _settle_mirror(self) -> None:
        while self.mirroring:
            there, self.mirroring = ray.wait(self.mirroring, timeout=MIRROR_BEAT_SECONDS)
            ray.get(there)
            if self.mirroring:  # Ray takes seconds to tell that a holder is gone; the group's connections tell at once
                self.trainer.group.check()
            elif own := self.member.memory.own:
                self.mirrored = own.step

    def _save(self, tensors: dict[str, Tensor], last: bool, pinned: bool = False) -> None:
        """Write this member's piece, beside the steps that follow; the conductor completes the checkpoint.

        `last` is what the run ends or stops with, for which no other would do. `pinned` is one to keep, for which the steps
        wait until the one before is written.
        """
        if self.writing and last:
            self._settle_writing()
        elif self.writing and not self.writing.done():
            if not pinned:
                self.journal.event("checkpoint_late", step=self.done, reason="the one before is still being written")
                return
            if not self._written_before():
                seconds = self.spec.fault.storage_wait_s
                reason = f"it was to be kept, but for {seconds:.0f} s the one before has still been being written"
                return self._tell(Written(self.order.generation, self.done, reason, seconds))
        self.saved = self.done
        blocks, generation, losses = self.trainer.blocks, self.order.generation, self.trainer.spikes.window()
        self.writing = self.writer.submit(self._write, generation, self.done, blocks, tensors, losses, last, pinned)

    def _written_before(self) -> bool:
        """Wait for what is being written. Whether it is, in time. Raises RuntimeError where the group breaks meanwhile."""
        until = time.monotonic() + self.spec.fault.storage_wait_s
        while self.writing and not wait([self.writing], MIRROR_BEAT_SECONDS).done:
            self.trainer.group.check()
            if time.monotonic() > until:
                return False
        return True

    def _write(
        self, generation: int, step: int, blocks: range, tensors: dict[str, Tensor], losses: Losses, last: bool, pinned: bool
    ) -> None:
        """In the writer's thread. What the run ends with, or keeps, is tried again and again for a while."""
        began = time.monotonic()

        def again() -> bool:
            wanted = last or (pinned and generation == self.member.status.generation)
            return wanted and time.monotonic() - began <= self.spec.fault.storage_wait_s

        while True:
            try:
                outcome: ShardFile | str = write_shard(self.checkpoints, step, blocks, tensors, generation)
                break
            except InputError as error:
                outcome = str(error)
            if not again():
                break
            time.sleep(AGAIN_SECONDS)
        self._tell(Written(generation, step, outcome, time.monotonic() - began, losses))
        if last and isinstance(outcome, str):
            raise self._not_kept(f"the checkpoint of step {step} could not be written: {outcome}")

    def _tell(self, written: Written) -> None:
        """The conductor, which looks at what the present group writes."""
        if written.generation == self.member.status.generation:
            self.member.say(written=(*self.member.status.written[-WRITTEN:], written))

    def _settle_writing(self) -> None:
        """Raises RunFailed where what is being written cannot be, or storage does not answer."""
        if self.writing:
            try:
                self.writing.result(timeout=self.spec.fault.storage_wait_s + 10)
            except TimeoutError:
                seconds = self.spec.fault.storage_wait_s
                raise self._not_kept(f"{self.checkpoints} has not answered for {seconds:.0f} s") from None

    def _not_kept(self, reason: str) -> RunFailed:
        return RunFailed(f"{reason}; `foundray resume {self.work.run}` goes on from the last checkpoint")

    def _explained(self, overflow: Overflow) -> RunFailed:
        first = (overflow.step + self.passed_over) * self.spec.train.micro_batches + overflow.index
        names = self.work.plan.order().ids(self.work.plan.addresses(first, 1))
        return RunFailed(f"{overflow} (samples {', '.join(names)}, ...): look at these samples, or try a lower optimizer.lr")
