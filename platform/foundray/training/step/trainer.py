"""The exact step: the same micro-batches, the same sum and the same update, whichever workers take part.

1. Every worker takes micro-batches of the step when it is ready for them. A micro-batch's samples and random numbers follow
   from (seed, step, index), so its loss and gradient do not depend on the worker.
2. Gradients are summed in fixed point and reduced to the owners of the blocks.
3. Each owner scales its shard to the mean, clips by the global norm, and updates its parameters.
4. All workers gather the new parameters.
"""

from __future__ import annotations

import gc
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import TypeVar

import torch
from torch import Tensor

from foundray.cluster.causes import described
from foundray.contract import Objective
from foundray.data.stream.batch import combined, fingerprint
from foundray.data.stream.order import mix
from foundray.host.devices import traits
from foundray.model.backbone import run
from foundray.model.model import Batch, Model, initialise
from foundray.model.recomputing import Recompute
from foundray.spec import Spec
from foundray.training.collectives.group import Group
from foundray.training.step.blocks import BLOCK, Blocks, overlaps, shard_bounds, shard_of
from foundray.training.step.flat import FlatParameters, Layout, part
from foundray.training.step.gradient_sum import ExactSum, GradientSum, RoundedSum, overflows
from foundray.training.step.guards import Corruption, Spike, SpikeGuard, checksum, odd_ones_out
from foundray.training.step.kernels import compile_layers, unfit
from foundray.training.step.loss_sum import WORDS, fits, nats, words
from foundray.training.step.losses import chunked_loss, summed_loss
from foundray.training.step.optimizers.shard import ShardOptimizer
from foundray.training.step.outcome import NotOnce, Overflow, StepResult
from foundray.training.step.schedule import lr_factor
from foundray.training.step.teacher import NAME as TEACHER
from foundray.training.step.teacher import Teacher

WHOLE, EACH = WORDS + 4, 5
"""Integers that workers sum per step: for the whole step, and for each micro-batch."""


class Disagreement(RuntimeError):
    """Workers of a group are at different steps, or under different cuts."""


Item = TypeVar("Item")
MicroBatches = Iterable[tuple[int, bytes]]
"""(position in the stream, payload)"""


class Trainer:
    """A model on one worker, its shard of the optimizer, and the step that moves both."""

    team_size = 1
    """Workers that hold one copy of the model between them."""

    def __init__(
        self, spec: Spec, model: Model, objective: Objective, group: Group | None = None, device: torch.device | None = None
    ):
        self.spec, self.model, self.objective = spec, model, objective
        self.device = device or next(model.parameters()).device
        self.traits = traits(self.device)
        self.layout = Layout.of(model)
        self.traits.prefer_equal_bits(spec.train.exact)
        if spec.train.compile and self.traits.compiles:
            compile_layers(model)
        if spec.train.recompute != "auto":
            self.recompute_activations(spec.train.recompute)
        self.spikes = SpikeGuard(spec.guard.spike)
        self.read: Callable[[int], bytes] | None = None
        """Reads the micro-batch at a position of the stream, for rechecks."""
        self.alike = True
        """Whether all workers' hardware is of one kind, so that bits can be compared."""
        self.group = Group()
        self.updates: int | None = None
        """Updates that this worker's shard has had; None while it may be incomplete."""
        self.result: StepResult | None = None
        """The result of the last step."""
        if group is not None or self.team_size == 1:
            self.take_part(group or self.group)

    def take_part(self, group: Group, bounds: tuple[int, ...] | None = None) -> None:
        """Become a worker of `group`: own a shard, with an optimizer whose state must still be loaded.

        Shards are equal, unless `bounds` are given (`shard_bounds`).
        """
        self.group, self.updates, self.result = group, None, None
        self.across = group
        """The workers that hold the same blocks as this one, and update a shard of them each."""
        self._hold()
        self.bounds = bounds or shard_bounds(len(self.held), [1.0] * self.across.world)
        self.own = shard_of(self.bounds, self.across.rank, len(self.held))
        """The positions, among the blocks that this worker holds, of those that it updates."""
        self.blocks = self.held.part(self.own.start, self.own.stop)
        self.optimizer = ShardOptimizer(self.spec.optimizer, self.layout, self.blocks, part(self.buffer, self.own))
        self.squares: Tensor | None = None
        """Sum of squares of the last step's gradient, before clipping, per block; None before this group's first step."""
        self.update_squares: Tensor | None = None
        """The same of what the last step changed the weights by; None unless it is followed by an evaluation."""

    def _hold(self) -> None:
        """Make the buffers for what this worker holds: the whole model, whatever the group."""
        if not hasattr(self, "flat"):
            self.flat = FlatParameters(self.model, self.layout, max(self.spec.scale.world[1], self.group.world))
            teacher = Teacher(self.model, self.objective, self.flat) if self.objective.teaches else None
            self._hold_in(self.flat.buffer, self.flat.blocks, teacher)

    def _hold_in(self, buffer: Tensor, held: Blocks, teacher: Teacher | None) -> None:
        """Sum the gradients, and keep the teacher, of the weights in `buffer`, those of the blocks `held`."""
        self.buffer, self.held = buffer, held
        summing = ExactSum if self.spec.train.exact else RoundedSum
        self.sum: GradientSum = summing(buffer.numel(), self.spec.train.micro_batches, self.device)
        self.teacher = teacher
        self.whole = {"master": buffer, **({TEACHER: teacher.buffer} if teacher else {})}
        """Buffers that this worker holds completely although it updates its shard only, by name in the state."""

    @property
    def numbers(self) -> range:
        """The numbers of this worker's blocks in its group's order (`team.holding.ordered`)."""
        return self.own

    def gather_weights(self) -> None:
        """Receive the other workers' shards of the weights, and of the teacher's."""
        for buffer in self.whole.values():
            self.across.gather(buffer, [bound * BLOCK for bound in self.bounds])

    def initialise(self) -> None:
        """Set the weights with which a run starts, also if steps were made that are to be forgotten."""
        self.flat.clear_padding()
        initialise(self.model, self.spec.seed)
        if self.teacher:
            self.teacher.begin()

    def overwrite(self, whose: str, name: str, values: Tensor) -> None:
        """Set the first rows of a parameter: of the `master` weights, or of the teacher's."""
        assert whose != TEACHER or self.teacher
        named = self.teacher.weights if whose == TEACHER and self.teacher else self.flat.named()
        named[name][: len(values)] = values.to(self.device)

    def weights(self) -> Iterator[tuple[str, Tensor]]:
        """The master weights by name, in name order, on the CPU. Every worker iterates to the end."""
        return self.flat.weights()

    def state_shard(self) -> dict[str, Tensor]:
        """A copy of this worker's shard of the state, on the CPU: master weights, teacher and optimizer state."""
        return {name: copied(parts) for name, parts in self.state_parts().items()}

    def state_parts(self) -> dict[str, list[Tensor]]:
        """The shard itself, each tensor in several parts: the next step changes it."""
        return {name: [part(buffer, self.own)] for name, buffer in self.whole.items()} | self.optimizer.parts()

    def load(self, tensors: dict[str, Tensor]) -> None:
        """Load this worker's shard of a state."""
        for name, buffer in self.whole.items():
            part(buffer, self.own).copy_(tensors[name])
        self.optimizer.load(tensors)

    def step(
        self,
        step: int,
        micro_batches: MicroBatches,
        leave: bool = False,
        save: bool = False,
        mirror: bool = False,
        passed_over: int = 0,
        made_under: str = "",
    ) -> StepResult:
        """Do the step after `step` others. Raises Overflow, Corruption or Spike, on every worker alike.

        `leave`, `save` and `mirror` are this worker's requests for what all do after the step: stop, write a checkpoint,
        replicate the state. `passed_over` is the data offset in steps, and `made_under` the id of the run's last cut. Raises
        Disagreement if another worker is at another step, or under other cuts.
        """
        # Compute this worker's micro-batches, and sum the facts of all workers.
        recheck, at = self._rechecked(step), step + passed_over
        facts = self._compute(at, micro_batches, recheck)
        facts[WORDS + 1], facts[WORDS + 2], facts[WORDS + 3] = int(leave), int(save), int(mirror)
        facts[self.group.rank - self.group.world] = mine = standing(step, made_under)
        *loss_words, tokens_sum, leaving, saving, mirroring = self._summed(facts)[:WHOLE].tolist()
        each, standings = facts[WHOLE : -self.group.world], facts[-self.group.world :].tolist()
        times, takers, fingerprints, bad, checksums = each.view(-1, EACH).T.tolist()
        if standings != [mine] * self.group.world:
            raise Disagreement(f"the workers disagree on the step and the cuts that they are at: {standings}")
        # Check that the step is whole, and that the workers' bits agree.
        if times != [1] * len(times):
            raise NotOnce(step, times)
        skipped = [index for index, value in enumerate(bad) if value]
        if not tokens_sum:
            raise Overflow(step, skipped[0])
        unchecked, rechecked = "", False if (step + 1) % (self.spec.guard.recheck_every or step + 2) == 0 else None
        if recheck is not None and recheck not in skipped:
            unchecked = self._recheck(step, at, recheck, takers[recheck], checksums[recheck])
            rechecked = not unchecked and self.group.world > 1
        # Judge the loss before anything is changed.
        loss = nats(loss_words) / tokens_sum
        if (spike := self.spikes.is_spike(loss)) and self.spec.guard.roll_back:
            raise Spike(step + 1, loss)
        lr = self.spec.optimizer.lr * lr_factor(self.spec.schedule, step, self.spec.train.steps)
        # Update this worker's shard. An error in between leaves `updates` at None: the shard may be half updated.
        gradient, norm = self._gradient(tokens_sum)
        before = self._copy_of_weights() if self.spec.train.evaluates(step + 1) else None
        self.updates = None
        if not spike:
            self.optimizer.step(step + 1, lr, gradient)
            if self.teacher:
                self.teacher.follow(self.own, step / self.spec.train.steps)
        requests = leaving > 0, saving > 0, mirroring > 0
        data = combined(fingerprints)
        self.result = StepResult(
            loss, tokens_sum, norm, lr, takers, data, *requests, tuple(skipped), spike, rechecked, unchecked
        )
        self.updates = step + 1
        if not spike:
            self.spikes.add(step + 1, loss)
        change = None if before is None else self._without_padding(before.sub_(part(self.buffer, self.own)))
        self.update_squares = None if change is None else self._block_squares(change)
        self.gather_weights()
        return self.result

    def _summed(self, facts: Tensor) -> Tensor:
        """All workers' facts; meanwhile the reduction of the gradients begins."""
        self.group.offer(self.sum.summed(), [bound * BLOCK for bound in self.bounds])
        return self.group.sum(facts)

    def _compute(self, at: int, micro_batches: MicroBatches, recheck: int | None) -> Tensor:
        """Sum the gradients of this worker's micro-batches of the data step `at`; returns the facts that all workers sum.

        They are [9 + 5 * micro-batches + workers] int64: the loss's words, tokens, requests to leave, save and replicate; per
        micro-batch how often it was computed, by which rank, its samples' fingerprint, whether it was skipped, and its
        gradient's checksum if it is rechecked; and per worker the step and the cuts that it is at, each in its own slot, since
        a sum could agree by accident.
        """
        per_step = self.spec.train.micro_batches
        facts = torch.zeros(WHOLE + EACH * per_step + self.group.world, dtype=torch.int64, device=self.device)
        whole, each = facts[:WHOLE], facts[WHOLE : -self.group.world].view(per_step, EACH)
        self.sum.clear()
        for position, payload in micro_batches:
            index = position - at * per_step
            loss, tokens = self.backward(payload, at, index)
            each[index, 0] += 1
            each[index, 1] = self.group.rank
            each[index, 2] = fingerprint(payload)
            if overflows(self.flat.gradient, self.sum.limit) | ~fits(loss):
                each[index, 3] = 1  # skip it before it adds to any sum
                continue
            self.sum.add(self.flat.gradient)
            whole[:WORDS] += words(loss)
            whole[WORDS] += tokens
            if index == recheck:
                each[index, 4] = checksum(self.flat.gradient)
        return facts

    def backward(self, payload: bytes, step: int, index: int) -> tuple[Tensor, Tensor]:
        """Write one micro-batch's gradient to the flat buffer; returns its loss and weight.

        If the device's memory is too small, activations are recomputed from now on, which gives the same bits.
        """
        try:
            return self._forward_backward(payload, step, index)
        except torch.OutOfMemoryError:
            if not self.may_recompute:
                raise
            self.recompute_activations()
        except RuntimeError as error:
            raise (unfit(error) or error) from None
        gc.collect()
        self.traits.release_memory()
        return self._forward_backward(payload, step, index)

    @property
    def may_recompute(self) -> bool:
        """Whether activations are not recomputed yet, and the spec allows it."""
        return self.spec.train.recompute == "auto" and self.model.model.recompute == "none"

    def recompute_activations(self, recompute: Recompute = "full") -> None:
        """Keep less of each layer from now on, by default only what enters it, and compute the rest in the backward pass."""
        for layers in self.model.stacks:
            layers.recompute = recompute

    def _forward_backward(self, payload: bytes, step: int, index: int) -> tuple[Tensor, Tensor]:
        loss, tokens = self.loss(payload, step, index)
        self.flat.gradient.zero_()
        # A fixed divisor keeps gradients close to those of the mean loss; the true number of tokens is known at the end.
        (loss / self.spec.tokens_per_step).backward()
        return loss.detach(), tokens

    def _gradient(self, tokens: int) -> tuple[Tensor, float]:
        """This worker's shard of the step's gradient, clipped, and the norm of the whole gradient before clipping."""
        mine = self.across.reduce_to_owners(self.sum.summed(), [bound * BLOCK for bound in self.bounds])
        gradient = self.sum.as_float(mine[: len(self.blocks) * BLOCK], self.spec.tokens_per_step / tokens)
        norm = self._norm(gradient)
        if self.spec.optimizer.clip is not None and norm > self.spec.optimizer.clip:
            gradient *= self.spec.optimizer.clip / norm
        return gradient, norm

    def _rechecked(self, step: int) -> int | None:
        """The micro-batch of the step that all workers recompute; None if no recheck is due."""
        every = self.spec.guard.recheck_every
        if every is None or self.read is None or not self.alike or (step + 1) % every:
            return None
        return mix(self.spec.seed, step, 2**33) % self.spec.train.micro_batches

    def _recheck(self, step: int, at: int, index: int, taker: int, first: int) -> str:
        """Recompute a micro-batch on all workers. Raises Corruption if one gets different bits.

        Returns why nothing was compared, if a worker could not read the micro-batch; otherwise an empty string.
        """
        assert self.read is not None
        again = torch.zeros(self.group.world + 1, dtype=torch.int64, device=self.device)
        payload, problem = None, ""
        try:
            payload = self.read(at * self.spec.train.micro_batches + index)
        except Exception as error:  # mostly unreachable storage; the step itself needs nothing from it
            problem = described(error)
            again[-1] = 1
        again[self.group.rank] = self._checksum(payload, at, index)
        *checksums, unread = self.group.sum(again).tolist()
        if unread:
            return str(next(filter(None, self.group.share(problem))))
        if odd := odd_ones_out(taker, first, checksums):
            raise Corruption(step + 1, index, odd)
        return ""

    def _checksum(self, payload: bytes | None, at: int, index: int) -> int:
        """Checksum of a micro-batch's gradient; 0 without its payload."""
        if payload is None:
            return 0
        self.backward(payload, at, index)
        return checksum(self.flat.gradient)

    def loss(self, payload: bytes, step: int, index: int) -> tuple[Tensor, Tensor]:
        """Summed loss and its count, of one micro-batch with its own random numbers."""
        batch = self.opened(payload, step, index)
        with self.traits.low_precision():
            hidden = self.model.encode(batch)
        return self.loss_of(batch, hidden)

    def opened(self, payload: bytes, step: int, index: int) -> Batch:
        """Load a micro-batch, and seed the random numbers of its forward pass."""
        torch.manual_seed(mix(self.spec.seed, step, index))  # for dropout and the like, inside the model
        return Batch.load(payload, self.device)

    def loss_of(self, batch: Batch, hidden: Tensor) -> tuple[Tensor, Tensor]:
        """Summed loss and its count, from the encoder's hidden states."""
        with self.traits.low_precision():
            hidden = run(self.model.decoder(batch), hidden)
            teacher_targets = self.teacher.targets(batch) if self.teacher else None
        return self.loss_of_heads(batch, hidden, teacher_targets)

    def loss_of_heads(self, batch: Batch, hidden: Tensor, teacher_targets: Tensor | None) -> tuple[Tensor, Tensor]:
        """Summed loss and its count, from hidden states as the last stage before the heads computes them."""
        if size := self.spec.train.loss_chunk:
            precision = self.traits.low_precision
            return chunked_loss(self.model, self.objective, batch, hidden, teacher_targets, size, precision)
        with self.traits.low_precision():
            answers = self.model.heads_of(batch, hidden)
        return summed_loss(self.objective, batch, answers, teacher_targets)

    # What an evaluation computes. All workers of a team call the same; one without a batch gathers for the others.

    def any_of_team(self, mine: bool) -> bool:
        """Tell whether something holds for any worker of this one's team."""
        return mine

    def rounds_of(self, own: Iterable[Item]) -> Iterator[Item | None]:
        """This worker's items, then None in each round in which others of its team still have one."""
        items = iter(own)
        while self.any_of_team((item := next(items, None)) is not None):
            yield item

    def encode(self, batch: Batch | None) -> Tensor | None:
        """Compute the encoder's hidden states [B, T, D]; None without a batch."""
        with self.traits.low_precision():
            return None if batch is None else self.model.encode(batch)

    def losses_of(self, parts: Sequence[tuple[Batch, Tensor]]) -> list[tuple[Tensor, Tensor]]:
        """The loss of each part of a micro-batch, and its count, from the encoder's hidden states."""
        return [self.loss_of(*one) for one in parts]

    @contextmanager
    def at_heads(self, batch: Batch | None, hidden: Tensor | None) -> Iterator[Tensor | None]:
        """What enters the heads, from the encoder's hidden states; None without a batch.

        Inside, the heads may be used, and products are in the device's low precision.
        """
        with self.traits.low_precision():
            yield None if batch is None or hidden is None else run(self.model.decoder(batch), hidden)

    @contextmanager
    def answering(self, batch: Batch | None) -> Iterator[Tensor | None]:
        """As `at_heads`, from a batch."""
        with self.at_heads(batch, self.encode(batch)) as entering:
            yield entering

    def weight_squares(self) -> Tensor:
        """Sum of squares of the weights in each block [blocks], on the CPU. All workers of the group call this."""
        return self._block_squares(self._without_padding(self._copy_of_weights()))

    def _norm(self, gradient: Tensor) -> float:
        """Norm of the whole gradient, from this worker's shard: squares are summed per block, and blocks in block order."""
        self.squares = self._block_squares(gradient)
        return float(self.squares.cumsum(0)[-1].sqrt())

    def _copy_of_weights(self) -> Tensor:
        """A copy of this worker's shard of the weights, in memory that nothing reads before the next step."""
        weights = part(self.buffer, self.own)
        return self.sum.spare(len(weights)).copy_(weights)

    def _without_padding(self, shard: Tensor) -> Tensor:
        """Set to zero what fills parameters up to whole blocks, in this worker's shard of some values: updates move it, too."""
        entries = self.layout.entries
        last_blocks = [(entry.first + entry.blocks - 1, entry.first + entry.blocks) for entry in entries]
        for index, here, _ in overlaps(last_blocks, self.blocks):
            filled = entries[index].elements.stop - last_blocks[index][0] * BLOCK
            shard[here * BLOCK + filled : (here + 1) * BLOCK] = 0
        return shard

    def _block_squares(self, shard: Tensor) -> Tensor:
        """Sum of squares of each block of the whole space [blocks], on the CPU, from this worker's shard of the values."""
        squares = torch.zeros(self.bounds[-1], dtype=torch.float64, device=self.device)
        sums, rows = squares[self.own.start : self.own.stop], self.traits.chunk // BLOCK
        for some, mine in zip(sums.split(rows), shard.view(-1, BLOCK).split(rows), strict=True):
            some.copy_(row_sums(mine * mine))
        return self._of_all_blocks(squares).cpu()

    def _of_all_blocks(self, values: Tensor) -> Tensor:
        """A value of every block in block order, from all workers; `values` has those of this worker's shard, at `own`."""
        self.group.gather(values, self.bounds)
        return values[: self.layout.blocks]


def standing(step: int, made_under: str) -> int:
    """A number that stands for a step and the run's cuts before it."""
    return zlib.crc32(made_under.encode(), step) + (step << 32)


@torch.no_grad()
def copied(parts: Sequence[Tensor]) -> Tensor:
    """Copy to main memory, in one piece: from a GPU into pinned memory, which is faster, and which torch reuses for the next
    copy.
    """
    first = parts[0]
    pinned = not traits(first.device).in_main_memory
    whole = torch.empty(sum(map(len, parts)), dtype=first.dtype, pin_memory=pinned)
    for there, values in zip(whole.split([len(values) for values in parts]), parts, strict=True):
        there.copy_(values)
    return whole


def row_sums(values: Tensor) -> Tensor:
    """Sum each row of values [rows, a power of two] by halves, overwriting them.

    A GPU's own sum may add in another order if there are fewer rows.
    """
    width = values.shape[1]
    while width > 1:
        width //= 2
        values[:, :width] += values[:, width : 2 * width]
    return values[:, 0]
