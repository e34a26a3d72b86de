"""Evaluations during a run: what they cover, and their data, which are prefetched."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict
from functools import cached_property
from typing import TYPE_CHECKING, Any

from foundray.data.stream.leases import MicroBatchSource
from foundray.data.stream.plan import StreamPlan
from foundray.data.stream.validation import Part, part_of
from foundray.runs.run import event
from foundray.spec import Spec
from foundray.spec.evaluating import VALIDATION
from foundray.storage import Store
from foundray.training.elastic.messages import Order, Work
from foundray.training.evaluating.activations import Activations
from foundray.training.evaluating.evaluation import SourceRows, evaluate
from foundray.training.evaluating.health import health
from foundray.training.evaluating.looks import Looks
from foundray.training.step.outcome import Evaluation
from foundray.training.step.trainer import Trainer

if TYPE_CHECKING:
    from foundray.training.elastic.judging import Judging

PREFETCH_SECONDS = 5.0
"""An evaluation's stream opens this long before it is due: starting readers takes seconds on a busy machine."""


class Evaluations:
    """One worker's share of the evaluations. Each reads validation micro-batches as one step of a separate stream."""

    def __init__(self, work: Work, spec: Spec, trainer: Trainer):
        self.work, self.spec, self.trainer = work, spec, trainer

    @cached_property
    def judging(self) -> Judging:
        """Tasks and texts. Its tokenizer is imported with the first evaluation, not before the first step."""
        from foundray.training.elastic.judging import Judging

        return Judging(self.work, self.spec, self.trainer)

    def begin(self, order: Order) -> None:
        """Start in a group."""
        self.order = order
        self.prefetched = order.evaluated
        """Last step whose evaluation is done or whose stream was opened; it is not opened again."""

    def prefetch(self, done: int, step_s: float) -> None:
        """Open the next evaluation's stream if that is due soon, at `step_s` seconds per step, without waiting."""
        every, steps = self.spec.train.evaluate_every, self.spec.train.steps
        next_step = min(steps, (done // every + 1) * every)
        if self.order.rank == 0 and self.prefetched < next_step and (next_step - done) * step_s < PREFETCH_SECONDS:
            self.prefetched = next_step
            self.work.feeder.open.remote(*self._stream(next_step, self._part(next_step)))

    def evaluate(self, done: int, ends_early: Callable[[float], bool]) -> dict[str, Any]:
        """Evaluate after `done` steps and return the event; `ends_early` says whether a validation loss here ends the run."""
        began = time.perf_counter()
        part = self._part(done)
        before = self._part()
        compared = {}
        activations, looks = Activations(self.trainer.model), Looks.of(self.spec, self.trainer, before.micro_batches)
        if before.samples < part.samples:
            result = self._evaluate(self._stream(done, part), part, activations)
            compared = {"compared_loss": self._evaluate(self._stream(done, before, "compared"), looks=looks).loss}
        else:
            result = self._evaluate(self._stream(done, part), part, activations, looks)
        early = ends_early(result.loss)
        judged = self._sets(done, early) | self.judging.judge(done, early)
        return event(
            "evaluated",
            step=done,
            set=VALIDATION,
            samples=part.samples,
            of_samples=part.of_samples,
            val_loss=result.loss,
            val_tokens=result.tokens,
            not_finite=result.not_finite,
            feature_spread=round(result.spread, 4),
            effective_rank=round(result.effective_rank, 2),
            seconds=round(time.perf_counter() - began, 3),
            **compared,
            **({"sources": [asdict(one) for one in result.sources]} if result.sources else {}),
            **judged,
            **(looks.kept(Store.at(self.work.run), done) if looks else {}),
            health=health(self.trainer, activations.found(self.trainer.group)),
        )

    def _sets(self, done: int, ends_early: bool) -> dict[str, Any]:
        """Evaluate the further validation sets that are due after `done` steps: all of them if the run ends there."""
        last, found = done == self.spec.train.steps, []
        for one in self.work.sets:
            if last or ends_early or done % (self.spec.evaluate.sets[one.name].every or 1) == 0:
                part = part_of(one.plan, self.spec, (one.samples,), last, one.name)
                result = self._evaluate(self._stream(done, part, f"set-{one.name}"))
                samples = {"samples": part.samples, "of_samples": part.of_samples}
                found.append({"name": one.name, **samples, "loss": result.loss, "tokens": result.tokens})
        return {"sets": found} if found else {}

    def _evaluate(
        self,
        stream: tuple[int, str, StreamPlan, int, int, int],
        part: Part | None = None,
        activations: Activations | None = None,
        looks: Looks | None = None,
    ) -> Evaluation:
        """Evaluate a stream; with a `part` of several sources also source by source."""
        source = MicroBatchSource(self.work.feeder, *stream, self.order.rank)
        by_source = SourceRows(part.sources, len(part.ends)) if part and len(part.ends) > 1 else None
        result = evaluate(self.trainer, source.step(0), by_source, activations, looks)
        source.close()
        return result

    def _part(self, done: int | None = None) -> Part:
        """Part of the validation split evaluated after `done` steps; by default the part used before the last evaluation."""
        return part_of(self.work.plan, self.spec, self.work.validation_sizes, done == self.spec.train.steps)

    def _stream(self, done: int, part: Part, name: str = "validation") -> tuple[int, str, StreamPlan, int, int, int]:
        """Arguments with which every worker asks the feeder for this stream."""
        return self.order.generation, f"{name}-{done}", part.plan, part.micro_batches, 0, part.micro_batches
