"""A run's evaluations as it goes: on what they look, and their data, which are asked for before they are needed."""

from __future__ import annotations

import time
from typing import Any

from foundray.data.stream.leases import MicroBatchSource
from foundray.data.stream.plan import StreamPlan
from foundray.data.stream.validation import Part, part_of
from foundray.runs.run import event
from foundray.spec import Spec
from foundray.spec.evaluating import VALIDATION
from foundray.training.elastic.messages import Order, Work
from foundray.training.evaluating.evaluation import evaluate
from foundray.training.step.outcome import Evaluation
from foundray.training.step.trainer import Trainer

FORESEE_SECONDS = 5.0
"""So long before an evaluation its stream is opened: starting processes that read takes seconds, on a busy machine."""


class Evaluations:
    """One worker's part of them. Each looks at micro-batches of the validation split, as one step of a stream of its own."""

    def __init__(self, work: Work, spec: Spec, trainer: Trainer):
        self.work, self.spec, self.trainer = work, spec, trainer

    def begin(self, order: Order) -> None:
        """Take part in a group."""
        self.order = order
        self.prefetched = order.evaluated
        """The last step whose evaluation's stream is open, or was, or that has its evaluation: it is not made again."""

    def prefetch(self, done: int, step_s: float) -> None:
        """Let the next evaluation's stream begin if that is due soon, at `step_s` seconds per step; nothing is waited for."""
        every, steps = self.spec.train.evaluate_every, self.spec.train.steps
        following = min(steps, (done // every + 1) * every)
        if self.order.rank == 0 and self.prefetched < following and (following - done) * step_s < FORESEE_SECONDS:
            self.prefetched = following
            self.work.feeder.open.remote(*self._stream(following, self._part(following)))

    def evaluate(self, done: int) -> dict[str, Any]:
        """The event of the evaluation after `done` steps."""
        began = time.perf_counter()
        part = self._part(done)
        found = self._on(self._stream(done, part))
        compared = {}
        if (before := self._part()).samples < part.samples:
            compared = {"compared_loss": self._on(self._stream(done, before, "compared")).loss}
        return event(
            "evaluated",
            step=done,
            set=VALIDATION,
            samples=part.samples,
            of_samples=part.of_samples,
            val_loss=found.loss,
            val_tokens=found.tokens,
            not_finite=found.not_finite,
            feature_spread=round(found.spread, 4),
            effective_rank=round(found.effective_rank, 2),
            seconds=round(time.perf_counter() - began, 3),
            **compared,
        )

    def _on(self, stream: tuple[int, str, StreamPlan, int, int, int]) -> Evaluation:
        source = MicroBatchSource(self.work.feeder, *stream, self.order.rank)
        found = evaluate(self.trainer, source.step(0))
        source.close()
        return found

    def _part(self, done: int | None = None) -> Part:
        """What is looked at after `done` steps; by default what evaluations before the one at the end look at."""
        return part_of(self.work.plan, self.spec, self.work.validation_samples, done == self.spec.train.steps)

    def _stream(self, done: int, part: Part, name: str = "validation") -> tuple[int, str, StreamPlan, int, int, int]:
        """How the feeder is asked to open it, by every worker alike."""
        return self.order.generation, f"{name}-{done}", part.plan, part.micro_batches, 0, part.micro_batches
