"""The exact step: the same micro-batches, the same sum, the same update, whoever takes part.

1. Every worker takes micro-batches of the step as it is ready for them. A micro-batch's samples and its random numbers
   follow from (seed, step, index), so its loss and gradient do not depend on the worker.
2. Gradients are summed in fixed point and reduced to the owners of the blocks.
3. Each owner scales its shard to the mean, clips by the global norm, and updates its parameters.
4. The new parameters are gathered by all.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from foundray.contract import Objective, Units
from foundray.data.order import mix
from foundray.errors import RunFailed
from foundray.model.decoder import Model
from foundray.spec import Spec
from foundray.training.flat import BLOCK, FlatParameters, Layout
from foundray.training.gradient_sum import ExactSum, GradientSum, RoundedSum, overflows
from foundray.training.group import Group
from foundray.training.optimizer import ShardOptimizer
from foundray.training.schedule import lr_factor

LOSS_SCALE = 2.0**32
"""Losses are summed in fixed point too, in units of 2^-32 nats."""

MicroBatches = Iterable[tuple[int, pa.Table]]
"""(position in the stream, samples)"""


@dataclass(frozen=True)
class StepResult:
    loss: float
    """Mean over the step's predicted tokens, in nats, before the update."""
    tokens: int
    grad_norm: float
    lr: float


class Overflow(RunFailed):
    """A micro-batch's loss or gradient was not finite, or too large for the exact sum."""

    def __init__(self, step: int, index: int):
        super().__init__(f"micro-batch {index} of step {step} has a loss or gradient that is not finite or overflows")
        self.step, self.index = step, index


class Trainer:
    """A model on one worker, its shard of the optimizer, and the step that moves both."""

    def __init__(self, spec: Spec, model: Model, objective: Objective, document_id: int, group: Group):
        self.spec, self.model, self.objective, self.group = spec, model, objective, group
        self.document_id = document_id
        self.device = next(model.parameters()).device
        self.layout = Layout.of(model.named_parameters())
        self.blocks = self.layout.shard(group.rank, group.world)
        self.flat = FlatParameters(model, self.layout, group.world)
        self.optimizer = ShardOptimizer(spec.optimizer, self.layout, self.blocks, self.flat.shard(self.blocks))
        summing = ExactSum if spec.train.exact else RoundedSum
        self.sum: GradientSum = summing(self.flat.buffer.numel(), spec.train.micro_batches, self.device)

    def step(self, step: int, micro_batches: MicroBatches) -> StepResult:
        """Do the step that comes after `step` others. Raises Overflow, on every worker alike."""
        per_step = self.spec.train.micro_batches
        facts = torch.zeros(2 + per_step, dtype=torch.int64, device=self.device)  # loss, tokens, overflow of each
        self.sum.total.zero_()
        for position, samples in micro_batches:
            index = position - step * per_step
            loss, tokens = self._loss(samples, step, index)
            self.flat.gradient.zero_()
            # A fixed divisor keeps gradients near those of the mean loss; the true number of tokens is known at the end.
            (loss / self.spec.tokens_per_step).backward()
            self.sum.add(self.flat.gradient)
            facts[0] += _fixed(loss)
            facts[1] += tokens
            facts[2 + index] = overflows(self.flat.gradient, self.sum.limit) | ~torch.isfinite(loss.detach())
        loss_sum, tokens_sum, *overflown = self.group.sum(facts).tolist()
        if any(overflown):
            raise Overflow(step, next(index for index, bad in enumerate(overflown) if bad))
        gradient = self.sum.as_float(self.group.reduce_to_owners(self.sum.total))[: len(self.blocks) * BLOCK]
        gradient *= self.spec.tokens_per_step / tokens_sum
        norm = self._norm(gradient)
        if self.spec.optimizer.clip is not None and norm > self.spec.optimizer.clip:
            gradient *= self.spec.optimizer.clip / norm
        lr = self.spec.optimizer.lr * lr_factor(self.spec.schedule, step, self.spec.train.steps)
        self.optimizer.step(step + 1, lr, gradient)
        self.group.gather(self.flat.buffer)
        return StepResult(loss_sum / LOSS_SCALE / tokens_sum, tokens_sum, norm, lr)

    @torch.no_grad()
    def evaluate(self, micro_batches: MicroBatches) -> tuple[float, int]:
        """Mean loss in nats, and number, of all workers' tokens: the same bits for any number of workers."""
        facts = torch.zeros(2, dtype=torch.int64, device=self.device)
        for position, samples in micro_batches:
            loss, tokens = self._loss(samples, 0, position)
            facts += torch.stack([_fixed(loss), tokens.to(torch.int64)])
        loss_sum, tokens_sum = self.group.sum(facts).tolist()
        return loss_sum / LOSS_SCALE / tokens_sum, tokens_sum

    def _loss(self, samples: pa.Table, step: int, index: int) -> tuple[Tensor, Tensor]:
        """Summed loss and its weight, of a micro-batch with random numbers of its own."""
        seed = int(mix(self.spec.seed, step, index))
        torch.manual_seed(seed)  # for dropout and the like, inside the model
        generator = torch.Generator().manual_seed(seed)
        plan = self.objective.plan(self._units(samples), generator)
        with self._precision():
            predictions = self.model(plan)
        losses = [self.objective.loss(p, ask) for p, ask in zip(predictions, plan.asks, strict=True)]
        return torch.stack([loss for loss, _ in losses]).sum(), torch.stack([weight for _, weight in losses]).sum()

    def _units(self, samples: pa.Table) -> Units:
        units = collate(samples, self.spec.model.context + 1, self.document_id)
        if self.device.type == "cpu":
            return units
        x, document, valid = (t.pin_memory().to(self.device, non_blocking=True) for t in (units.x, units.document, units.valid))
        return Units(x, document, valid, units.mixed)

    def _precision(self) -> contextlib.AbstractContextManager[object]:
        """bf16 matrix products on GPUs that have them; fp32 otherwise."""
        if self.device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False):
            return torch.autocast("cuda", torch.bfloat16)
        return contextlib.nullcontext()

    def _norm(self, gradient: Tensor) -> float:
        """Of the whole gradient, from this worker's shard: squares are summed in each block, and blocks in block order."""
        squares = torch.zeros(self.layout.share(self.group.world) * self.group.world, dtype=torch.float64, device=self.device)
        mine = gradient.view(-1, BLOCK)
        squares[self.blocks.start : self.blocks.stop] = (mine * mine).sum(1)
        self.group.gather(squares)
        return float(squares[: self.layout.blocks].cpu().cumsum(0)[-1].sqrt())


def _fixed(loss: Tensor) -> Tensor:
    return (loss.detach().double() * LOSS_SCALE).round().to(torch.int64)


def collate(samples: pa.Table, length: int, document_id: int) -> Units:
    """A micro-batch's samples, each at most `length` tokens, as padded tensors."""
    column = samples.column("tokens").combine_chunks()
    lengths = np.diff(column.offsets.to_numpy())
    valid = np.arange(length) < lengths[:, None]
    x = np.zeros((len(column), length), np.int64)
    x[valid] = column.flatten().to_numpy()
    document = np.cumsum((x == document_id) & valid, axis=1)
    return Units(
        torch.from_numpy(x),
        torch.from_numpy(document),
        torch.from_numpy(valid),
        mixed=bool((document[:, -1] > document[:, 0]).any()),
    )


def named_weights(flat: FlatParameters) -> Iterator[tuple[str, Tensor]]:
    """The master weights by name, in name order, on the CPU."""
    for name, tensor in sorted(flat.named().items()):
        yield name, tensor.detach().cpu()
