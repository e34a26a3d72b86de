"""The training loop: join a group with its state, step until done or stopped, and look after copies of the state."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import nullcontext, suppress
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import ray
import torch
from torch import Tensor

from foundray.contract import Objective
from foundray.data.stream.leases import TRAINING, MicroBatchSource
from foundray.data.stream.plan import read_micro_batches
from foundray.errors import FoundrayError, InputError, RunFailed
from foundray.host.devices import traits
from foundray.model.model import Model
from foundray.records.schema import MEASURES
from foundray.records.takers import recorded
from foundray.runs.lineage import under
from foundray.spec import Spec
from foundray.storage import Store
from foundray.training.checkpoints.checkpoint import load, weights_sha256
from foundray.training.checkpoints.interval import Interval
from foundray.training.collectives.group import Group
from foundray.training.elastic.canary import differences, hardware_kind
from foundray.training.elastic.evaluations import Evaluations
from foundray.training.elastic.messages import Order, Work
from foundray.training.elastic.replication import Replication
from foundray.training.elastic.restore import restore
from foundray.training.elastic.shard_writer import ShardWriter
from foundray.training.evaluating.stopping import reason, stops_at
from foundray.training.protocol.messages import Phase
from foundray.training.protocol.states import Source, StateShard
from foundray.training.rollback import next_turn, passed_over
from foundray.training.slots.board import Journal
from foundray.training.step.guards import Losses, Spike
from foundray.training.step.outcome import Overflow, StepResult
from foundray.training.step.team.trainer import TeamTrainer
from foundray.training.step.trainer import Trainer
from foundray.training.warm_start.starting import begin

if TYPE_CHECKING:
    from foundray.training.elastic.worker import Worker


def _trainer(spec: Spec, objective: Objective, classes: int, device: torch.device) -> Trainer:
    """The model and its step; in a team, without memory for the model until it joins a group."""
    team = spec.scale.team_size
    with torch.device("meta") if team > 1 else nullcontext():
        model = Model(spec.model, objective, spec.unit_shape(classes))
    return TeamTrainer(spec, model, objective, None, team, device) if team > 1 else Trainer(spec, model.to(device), objective)


class Loop:
    """One worker's work, group after group."""

    def __init__(self, work: Work, worker: Worker):
        began = time.monotonic()
        self.worker, self.work = worker, work
        self.spec = spec = Spec.model_validate_json(work.spec_json)
        torch.set_num_threads(spec.scale.worker_threads)
        # The model and its step.
        objective = spec.objective.build()
        self.trainer = _trainer(spec, objective, work.classes, torch.device(worker.device))
        self.trainer.read = lambda position: next(read_micro_batches(work.plan, position, 1))
        self.evaluations = Evaluations(work, spec, self.trainer)
        # Records, and the copies of the state: checkpoints in storage, replicas in other workers' memory.
        self.journal = Journal(work.board)
        self.shard_writer = ShardWriter(work.run, spec, self.trainer, worker, self.journal)
        self.replication = Replication(worker)
        self.interval = Interval()
        self.checkpoint_due = self.replica_due = False
        """Whether all agreed on a checkpoint, and on replicating, after the last step."""
        self.generation = 0
        """Generation of the group in which the state was last moved."""
        self.made_under = ""
        """Id of the run's last cut at that time."""
        self.done = 0
        self.val_losses: dict[int, float] = {}
        """Validation losses by step, if they may end the run early: the same on every worker."""
        self.over = False
        """Whether the run ends after the last step."""
        self.copy_s = 0.0
        """Seconds spent copying the state before this step."""
        self.hardware = hardware_kind(spec.model, objective.causal, self.trainer.device)
        self.model_s = time.monotonic() - began

    def facts(self) -> dict[str, Any]:
        layout = self.trainer.layout
        return {
            "blocks": layout.blocks,
            "parameters": [(e.name, list(e.shape), e.first) for e in layout.entries],
            "device": str(self.trainer.device),
            **self.hardware,
            "free_bytes": traits(self.trainer.device).free_bytes(self.trainer.device),
            "model_s": round(self.model_s, 3),
        }

    # Joining and leaving a group

    def join(self, order: Order) -> None:
        began = time.perf_counter()
        if isinstance(order.source, ray.ObjectRef):
            order = replace(order, source=ray.get(order.source))
        self.order = order
        self.replication.begin(order.replica_holder)
        source = order.source if isinstance(order.source, Source) else None
        self.worker.replicas.start_from(source.state if source else None, order.lineage)
        # Meet the other workers, and take a share of the state.
        store = self.worker.store if order.rank == 0 else None
        worker, device = self.worker, self.trainer.device
        group = worker.group = Group.gather_at(
            order.rendezvous, order.rank, order.world, device, store, lambda: worker.halted_for > order.attempt
        )
        self.trainer.take_part(group, order.bounds)
        initialised, losses = self._take_state(group, order)
        # Continue from that step: the guard's window, the data's offset, and the step to stop at.
        self.trainer.updates = self.done
        self.trainer.spikes.restore(dict(losses).items(), self.done)
        self.generation, self.made_under = order.generation, under(order.lineage)
        self.data_offset = passed_over(order.roll_backs, self.done)
        self.until = next_turn(order.roll_backs, self.done) or self.spec.train.steps
        self.checkpoint_due = self.replica_due = False
        self.shard_writer.saved = None if source else self.done
        self.interval.begin(self.done)
        # Record what the group starts from; only rank 0 sends.
        self.evaluations.begin(order)
        self.journal.begin(order.rank == 0, order.recorded, order.evaluated, self.done)
        if initialised:
            self.journal.event("initialised", step=0, **initialised)
        self.journal.event(
            "workers_started",
            step=self.done,
            workers=order.world,
            team=self.trainer.team_size,
            device=str(self.trainer.device),
            state="memory" if source else "storage",
            peak_flops=order.peak_flops,
            seconds=round(time.perf_counter() - began, 3),
        )
        # Before the first step: agree on the arithmetic, and make this state safe.
        self.evaluated, self.val_losses = order.evaluated, dict(order.val_losses)
        self._compare_hardware(group)
        if self.done and self.mirrored:
            self._replicate(self.trainer.state_shard())

    def _take_state(self, group: Group, order: Order) -> tuple[dict[str, Any], Losses]:
        """Take the state that the order names: from the workers' memories, from a checkpoint, or a new one.

        Returns facts of the weights that a new run starts from, if they are another run's, and the spike guard's window.
        """
        if isinstance(order.source, Source):
            self.done = restore(self.trainer, group, order.source, self.worker.replicas)
            return {}, order.source.losses
        self.trainer.initialise()
        if order.source is not None:
            folder, wait_s = self.shard_writer.folder, self.spec.fault.storage_wait_s
            fingerprints = (self.spec.fingerprint(), *self.work.earlier_fingerprints)
            manifest = load(folder, self.trainer, order.source, fingerprints, wait_s)
            self.done = manifest.step
            return {}, order.losses if manifest.losses is None else tuple(manifest.losses)
        if origin := self.spec.branch_from:
            raise InputError(f"the state of {origin}, from which this run branched, is gone: delete the run, and branch again")
        self.done = 0
        if wanted := self.spec.init_from:
            return begin(self.trainer, Store.at(self.work.run), wanted, self.work.classes).facts(wanted), order.losses
        return {}, order.losses

    def _compare_hardware(self, group: Group) -> None:
        """Find out whether all workers compute alike."""
        kinds = group.share(self.hardware)
        self.trainer.alike = not (differing := differences(kinds))
        if differing and self.spec.train.exact:
            reason = f"the hardware is of {len({str(one) for one in kinds})} kinds ({differing})"
            self.journal.event("unlike", step=self.done, reason=reason)

    @property
    def mirrored(self) -> bool:
        """Whether another worker keeps replicas of this one's state."""
        return self.order.replica_holder is not None and self.spec.fault.mirrors

    def leave(self) -> None:
        """Keep the live state shard for the next group, and leave the old one, which wakes workers still waiting in it."""
        if self.trainer.updates == self.done + 1 and self.trainer.result:  # it broke between update and gathering
            self._record_step(self.trainer.result, 0.0)
        if self.trainer.updates and not (self.over and not self.mirrored):  # nobody needs a part of a run that is over
            self.worker.replicas.keep(self._own_shard(), self.trainer.state_shard(), own=True)
        self.worker.group = None
        self.trainer.group.leave()

    def _own_shard(self) -> StateShard:
        numbers, window, team = self.trainer.numbers, self.trainer.spikes.window(), self.trainer.team_size
        return StateShard(
            self.trainer.updates or 0, self.generation, numbers.start, numbers.stop, window, self.made_under, team
        )

    # The loop

    def run(self) -> dict[str, Any]:
        """Step until the run's last step, or until all stop. Returns the phase that follows."""
        train = self.spec.train
        # Lease micro-batches from the current step on.
        first, end = self.done + self.data_offset, (self.until + self.data_offset) * train.micro_batches
        feeder, generation = self.work.feeder, self.order.generation
        plan, rank = self.work.plan, self.order.rank
        source = MicroBatchSource(feeder, generation, TRAINING, plan, train.micro_batches, first, end, rank)
        while True:
            # Look after the last step: its evaluation and its copies. Then stop if the run or this group's part is done.
            self._after_step()
            if self.over:
                break
            if self.done == self.until:
                return self._paused()
            # One step. Requests to leave, save or replicate travel with it, so that all workers agree on them.
            self.began = time.perf_counter()
            try:
                leave = self.worker.pause_requested.is_set()
                save = self.worker.checkpoint_requested.is_set() or self._checkpoint_pays()
                replicate = self._replication_pays()
                result = self.trainer.step(
                    self.done, self._micro_batches(source), leave, save, replicate, self.data_offset, self.made_under
                )
            except Overflow as overflow:
                raise self._with_samples(overflow) from None
            except Spike:
                self.journal.close()  # otherwise undone steps could be recorded after those that replace them
                raise
            # Record it, then stop if all agreed to.
            self._record_step(result, source.take_waited())
            if result.rechecked:
                self.worker.set_status(passed=self.done)
            if result.unchecked:
                self.journal.event("recheck_skipped", step=self.done, reason=result.unchecked)
            self.checkpoint_due, self.replica_due = result.saving, result.mirroring
            if result.leaving and self.done < train.steps:
                if result.saving and len(self.trainer.blocks):
                    tensors = self.trainer.state_shard()
                    self.shard_writer.save(self.done, self.order.generation, self.made_under, tensors, last=True)
                    self.shard_writer.finish()
                return self._paused(result.saving)
        # The run is done: everything must be stored and recorded before the worker says so.
        self.shard_writer.finish()
        self.journal.close()
        sha = weights_sha256(self.trainer.weights()) if self.order.rank < self.trainer.team_size else None
        early = {"reason": reason(train, self.val_losses, self.done)} if self.done < train.steps else {}
        return {"phase": Phase.FINISHED, "done": self.done, "facts": {"weights_sha256": sha, **early}}

    def flush(self) -> None:
        """Store the records and shards under way before the run ends with an error."""
        with suppress(FoundrayError):
            self.shard_writer.finish()
        with suppress(ray.exceptions.RayError):
            self.journal.close()

    def _paused(self, saved: bool = False) -> dict[str, Any]:
        """Stop here with the other workers, to continue in another group, or after a restart from what is saved."""
        self._finish_replication()
        self.journal.close()
        return {"phase": Phase.PAUSED, "done": self.done, "saved": saved}

    def _after_step(self) -> None:
        """Do what is due after a step or after joining: evaluation, checkpoint, replication."""
        train, last = self.spec.train, self.done == self.spec.train.steps
        if train.evaluates(self.done) and self.evaluated < self.done:
            evaluated = self.evaluations.evaluate(self.done, self._stops_early)
            self.journal.record(evaluated)
            self.evaluated, self.val_losses[self.done] = self.done, evaluated["val_loss"]
        self.over = last = last or self._stops_early()

        def due(every: int | None) -> bool:
            return last or (every is not None and self._at_multiple(every))

        # Decide what to copy.
        every = train.checkpoint_every
        wanted = last or (self.checkpoint_due if every == "auto" else due(every))
        pinned = last or (self.done > 0 and self.spec.pins(self.done))
        save = (wanted or pinned) and self.shard_writer.saved != self.done and len(self.trainer.blocks) > 0
        mirror_every = self.spec.fault.mirror_every
        replicate = self.mirrored and mirror_every != "never" and (self.replica_due or due(mirror_every))
        back = self.spec.guard.roll_back
        replicate = replicate or (back is not None and due(back))
        replicate = replicate and self.replication.started != self.done  # a group begins with it
        # Copy the state once for both. Without replicas the last one is not copied, as nothing changes it any more.
        began = time.perf_counter()
        copy = self.trainer.state_shard() if replicate or (save and not last) else None
        if copy and replicate:
            self._replicate(copy)
        if save:
            state = copy or self.trainer.state_parts()
            self.shard_writer.save(self.done, self.order.generation, self.made_under, state, last, pinned)
            self.interval.saved(self.done, time.perf_counter() - began)
        self.copy_s = time.perf_counter() - began

    def _at_multiple(self, every: int) -> bool:
        return self.done > 0 and self.done % every == 0

    def _stops_early(self, val_loss: float | None = None) -> bool:
        """Tell whether the evaluations so far, and `val_loss` as the one here, end the run here.

        Later ones may be known: those of steps that are repeated.
        """
        train = self.spec.train
        if train.stop_early is None or not self._at_multiple(train.evaluate_every):
            return False
        losses = self.val_losses if val_loss is None else self.val_losses | {self.done: val_loss}
        return stops_at(train, {step: loss for step, loss in losses.items() if step <= self.done}) == self.done

    def _checkpoint_pays(self) -> bool:
        """Tell whether rank 0, for all, requests a checkpoint after this step, if the spec leaves the interval open."""
        wanted = self.spec.train.checkpoint_every == "auto" and self.order.rank == 0
        return wanted and self.interval.pays(self.done + 1, self.order.failures)

    def _replication_pays(self) -> bool:
        """Tell whether rank 0, for all, requests a replication after this step, if the spec leaves the interval open."""
        if self.spec.fault.mirror_every or self.order.rank or not self.mirrored:
            return False
        return self.replication.pays(self.done + 1, self.order.replica_s)

    def _micro_batches(self, source: MicroBatchSource) -> Iterator[tuple[int, bytes]]:
        yield from source.step(self.done + self.data_offset)
        self._finish_replication()  # before this step counts, otherwise more than `mirror_every` could be lost

    def _record_step(self, result: StepResult, waited: float) -> None:
        """Count and record a step."""
        self.done += 1
        if self.order.world == 1:
            self.worker.replicas.whole(None)
        elif self.replication.step:  # all have finished it, as this step was agreed on
            self.worker.replicas.whole((self.generation, self.replication.step))
        seconds = time.perf_counter() - self.began
        self.evaluations.prefetch(self.done, seconds)
        self.journal.record(
            {
                "step": self.done,
                "tokens": self.done * self.spec.tokens_per_step,
                **{name: getattr(result, name) for name in MEASURES},
                "lr": result.lr,
                "step_s": round(seconds, 6),
                "data_wait_s": round(waited, 6),
                "copy_s": round(self.copy_s, 6),
                "tokens_per_s": round(self.spec.tokens_per_step / seconds, 1),
                "workers": self.order.world,
                "takers": recorded(self.done, result.takers),
                "skipped": result.skipped,
                "spike": result.spike,
                "data": result.data,
                "passed_over": self.data_offset,
                "lineage": self.made_under,
                **({} if result.rechecked is None else {"rechecked": result.rechecked}),
                "mirrored": self.replication.step,
            }
        )

    # Copies of the state

    def _replicate(self, tensors: dict[str, Tensor]) -> None:
        self._finish_replication()
        self.replication.start(self._own_shard(), tensors)

    def _finish_replication(self) -> None:
        self.replication.finish(self.trainer.group.check)

    # Messages

    def _with_samples(self, overflow: Overflow) -> RunFailed:
        first = (overflow.step + self.data_offset) * self.spec.train.micro_batches + overflow.index
        names = self.work.plan.order().ids(self.work.plan.addresses(first, 1))
        return RunFailed(f"{overflow} (samples {', '.join(names)}, ...): look at these samples, or try a lower optimizer.lr")
