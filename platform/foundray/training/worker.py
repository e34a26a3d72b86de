"""What each worker does: join, load, step until done, and tell the journal."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

import ray
import ray.train
import ray.train.torch
import torch

from foundray.contract import load_objective
from foundray.data.feeder import MicroBatchSource, validation_plan
from foundray.data.stream import StreamPlan
from foundray.errors import FoundrayError, RunFailed
from foundray.model.decoder import Model, initialise
from foundray.spec import Spec
from foundray.storage import Store
from foundray.training.checkpoint import load_latest, save, weights_sha256
from foundray.training.group import Group
from foundray.training.journal import Journal
from foundray.training.step import Overflow, StepResult, Trainer, named_weights

EVALUATION_BATCH = 32
"""Samples evaluated at once, at least: without gradients more fit than in training."""


@dataclass(frozen=True)
class Work:
    """All that a worker needs to know."""

    spec_json: str
    run: str
    """The run folder's URL."""
    plan: StreamPlan
    vocabulary: int
    document_id: int
    validation_samples: int
    feeder: Any
    journal: Any
    """Of `start_journal`: records for events.jsonl and metrics.jsonl."""
    submitted: float
    """When the driver asked for workers (Unix time), for the account of the start-up."""


def train_worker(config: dict[str, Any]) -> None:
    """Ray Train's loop function. Input errors and overflows end it in good order on all workers; others restart the group."""
    work: Work = config["work"]
    context = ray.train.get_context()
    journal = Journal(work.journal, silent=context.get_world_rank() != 0)
    try:
        _Worker(work, Group(context.get_world_rank(), context.get_world_size()), journal).run()
    except ray.exceptions.RayError:
        raise  # from the feeder, perhaps to this worker alone: the group must fall, or the others would wait for it
    except FoundrayError as error:
        # Every worker raises these together, so none is left waiting in a collective.
        journal.event("failed", step=getattr(error, "step", None), reason=str(error), exit_status=error.exit_status)
    journal.close()


class _Worker:
    def __init__(self, work: Work, group: Group, journal: Journal):
        began = time.time()
        self.work, self.group, self.journal = work, group, journal
        self.spec = spec = Spec.model_validate_json(work.spec_json)
        torch.set_num_threads(spec.scale.worker_threads)
        objective = load_objective(spec.objective.kind, spec.objective.model_extra or {})
        model = Model(spec.model, work.vocabulary, objective.heads(work.vocabulary))
        initialise(model, spec.seed)
        model.to(ray.train.torch.get_device())
        self.trainer = Trainer(spec, model, objective, work.document_id, group)
        self.checkpoints = Store.at(work.run) / "checkpoints"
        restored = load_latest(self.checkpoints, self.trainer, spec.fingerprint())
        self.done, self.saved = restored.step, restored.step
        for reason in restored.skipped:
            journal.event("checkpoint_skipped", reason=reason, going_on_from=restored.step)
        self.generation = group.share(ray.get(work.feeder.begin.remote(group.world)) if group.rank == 0 else None)[0]
        journal.event(
            "workers_started",
            step=restored.step,
            workers=group.world,
            device=str(self.trainer.device),
            startup_s={"processes": round(began - work.submitted, 3), "model": round(time.time() - began, 3)},
        )

    def run(self) -> None:
        train = self.spec.train
        end = train.steps * train.micro_batches
        source = MicroBatchSource(
            self.work.feeder, self.generation, "train", self.work.plan, train.micro_batches, self.done, end
        )
        evaluated = -1
        while self.done < train.steps:
            began = time.perf_counter()
            try:
                result = self.trainer.step(self.done, source.step(self.done))
            except Overflow as overflow:
                raise self._explained(overflow) from None
            self.done += 1
            self._record(result, time.perf_counter() - began, source.take_waited())
            if self.done % train.evaluate_every == 0:
                self._evaluate()
                evaluated = self.done
            if self.done % train.checkpoint_every == 0:
                self._save()
        source.close()
        if evaluated != train.steps:
            self._evaluate()
        if self.saved != train.steps:
            self._save()
        sha = weights_sha256(named_weights(self.trainer.flat)) if self.group.rank == 0 else None
        self.journal.event("finished", step=self.done, weights_sha256=sha)

    def _record(self, result: StepResult, seconds: float, waited: float) -> None:
        self.journal.record(
            {
                "time": round(time.time(), 3),
                "step": self.done,
                "tokens": self.done * self.spec.tokens_per_step,
                "loss": result.loss,
                "grad_norm": result.grad_norm,
                "lr": result.lr,
                "step_s": round(seconds, 6),
                "data_wait_s": round(waited, 6),
                "tokens_per_s": round(self.spec.tokens_per_step / seconds, 1),
                "workers": self.group.world,
            }
        )

    def _evaluate(self) -> None:
        """One pass over the whole validation split, as one step of a stream of its own."""
        began = time.perf_counter()
        size = self.spec.train.micro_batch_size
        plan = validation_plan(self.work.plan, size * -(-EVALUATION_BATCH // size))
        batches = -(-self.work.validation_samples // plan.micro_batch_size)
        source = MicroBatchSource(self.work.feeder, self.generation, f"validation-{self.done}", plan, batches, 0, batches)
        loss, tokens = self.trainer.evaluate(source.step(0))
        source.close()
        self.journal.event(
            "evaluated", step=self.done, val_loss=loss, val_tokens=tokens, seconds=round(time.perf_counter() - began, 3)
        )

    def _save(self) -> None:
        began = time.perf_counter()
        size = save(self.checkpoints, self.trainer, self.done, self.spec.fingerprint(), self.spec.train.keep_checkpoints)
        self.saved = self.done
        self.journal.event("checkpoint", step=self.done, bytes=size, seconds=round(time.perf_counter() - began, 3))

    def _explained(self, overflow: Overflow) -> RunFailed:
        first = overflow.step * self.spec.train.micro_batches + overflow.index
        names = self.work.plan.order().ids(self.work.plan.addresses(first, 1))
        return RunFailed(
            f"{overflow} (samples {', '.join(names)}); the run stands at step {self.saved}: "
            "look at these samples, or try a lower optimizer.lr"
        )
