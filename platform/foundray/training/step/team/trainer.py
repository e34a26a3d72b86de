"""The exact step by teams: a trainer whose workers hold a part of the model each."""

from __future__ import annotations

import copy
import gc
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from foundray.contract import Objective
from foundray.data.stream.batch import fingerprint
from foundray.model.backbone import Stage
from foundray.model.model import Batch, Model, initial_weights
from foundray.model.units import units
from foundray.spec import Spec
from foundray.training.collectives.group import Group
from foundray.training.step.blocks import overlaps
from foundray.training.step.loss_sum import WORDS, fits, words
from foundray.training.step.teacher import NAME as TEACHER
from foundray.training.step.team.holding import holding
from foundray.training.step.team.parameters import TeamParameters
from foundray.training.step.team.passes import Passes
from foundray.training.step.team.teacher import TeamTeacher
from foundray.training.step.trainer import EACH, WHOLE, MicroBatches, Trainer

OUT_OF_MEMORY = 2**40
"""Mark of a micro-batch for which a member's memory was too small: all compute the step again, and recompute activations."""
TOO_LARGE = 2**16
"""Mark of a micro-batch whose gradient does not fit the sum, although its first units may have been added already."""


@dataclass(frozen=True)
class Round:
    """A micro-batch of each member of a team, or none of some."""

    mine: tuple[int, bytes] | None
    """(position, payload) of this member's."""
    positions: list[int | None]
    """Of all members'."""


class TeamTrainer(Trainer):
    """A trainer for groups whose teams of `size` workers hold one copy of the model between them."""

    def __init__(
        self, spec: Spec, model: Model, objective: Objective, group: Group | None, size: int, device: torch.device | None = None
    ):
        """`model` needs no memory: it may be on torch's `meta` device. Without a `group`, it holds nothing yet."""
        self.team_size = size
        device = device or (group or Group()).device
        model.set_tables(device)
        self.twin = copy.deepcopy(model) if objective.teaches else None
        """The teacher's network."""
        self.encoding = range(1 + len(model.model.layers))
        """The encoder's units."""
        super().__init__(spec, model, objective, group, device)

    def _hold(self) -> None:
        """Make the buffers for this worker's part of the model in this group's teams, after freeing those of the last."""
        for name in ("parameters", "passes", "lessons", "teacher", "buffer", "whole", "sum", "optimizer"):
            self.__dict__.pop(name, None)
        self.team, self.across = self.group.split(self.team_size)
        before = [holding(self.layout, units(self.model), self.team_size, member) for member in range(self.team.rank)]
        self.first = sum(len(unit.held) for held in before for unit in held)
        """The number of the first block that it holds."""
        self.parameters = TeamParameters(self.model, self.layout, self.team, self.device, self.across.world)
        self.passes = Passes(self.parameters)
        self.lessons: TeamTeacher | None = None
        if self.twin is not None:
            of_teacher = TeamParameters(self.twin, self.layout, self.team, self.device, self.across.world)
            self.lessons = TeamTeacher(self.twin, self.objective, self.parameters, of_teacher, self.encoding)
        self._hold_in(self.parameters.buffer, self.parameters.blocks, self.lessons)

    @property
    def numbers(self) -> range:
        return range(self.first + self.own.start, self.first + self.own.stop)

    def initialise(self) -> None:
        for name, values in initial_weights(self.model, self.spec.seed):
            self.parameters.put(name, values)
        if self.lessons:
            self.lessons.begin()

    def overwrite(self, whose: str, name: str, values: Tensor) -> None:
        assert whose != TEACHER or self.lessons
        (self.lessons.parameters if whose == TEACHER and self.lessons else self.parameters).put(name, values)

    def weights(self) -> Iterator[tuple[str, Tensor]]:
        return self.parameters.weights()

    def in_rounds(self, micro_batches: MicroBatches) -> Iterator[Round]:
        """This member's micro-batches beside the others', until all have none."""
        own = iter(micro_batches)
        while True:
            mine = next(own, None)
            positions = torch.zeros(self.team_size, dtype=torch.int64, device=self.device)
            positions[self.team.rank] = 0 if mine is None else mine[0] + 1
            found = [position - 1 if position else None for position in self.team.sum(positions).tolist()]
            if all(position is None for position in found):
                return
            yield Round(mine, found)

    # The gradient

    def _summed(self, facts: Tensor) -> Tensor:
        return self.group.sum(facts)

    def _of_all_blocks(self, values: Tensor) -> Tensor:
        everywhere = torch.zeros(self.layout.blocks, dtype=values.dtype, device=self.device)
        for there, here, count in overlaps([(0, self.layout.blocks)], self.blocks):
            everywhere[there : there + count] = values[self.own.start + here : self.own.start + here + count]
        return self.group.sum(everywhere)  # the others' are zeros here, so the sum is exact

    def _compute(self, at: int, micro_batches: MicroBatches, recheck: int | None) -> Tensor:
        """As in `Trainer`, in rounds of the team.

        A micro-batch whose gradient does not fit the sum is left out whole: the step is computed again without it.
        """
        taken: list[tuple[int, bytes]] = []
        left_out: set[int] = set()
        facts = self._compute_without(left_out, at, _kept(micro_batches, taken), recheck)
        while self._is_again(facts, left_out):
            facts = self._compute_without(left_out, at, taken, recheck)
        return facts

    def _is_again(self, facts: Tensor, left_out: set[int]) -> bool:
        """Tell whether all workers must compute the step again, and add the micro-batches to leave out then.

        Raises OutOfMemoryError, on all of them, if recomputed activations take too much memory, too.
        """
        marks = self.group.sum(facts[WHOLE : -self.group.world].view(-1, EACH)[:, 3].clone()).tolist()
        if any(mark >= OUT_OF_MEMORY for mark in marks):
            if not self.may_recompute:
                raise torch.OutOfMemoryError("a worker's memory is too small for a micro-batch")
            self.recompute_activations()
            gc.collect()
            self.traits.release_memory()
            return True
        too_large = {index for index, mark in enumerate(marks) if mark >= TOO_LARGE} - left_out
        left_out |= too_large
        return bool(too_large)

    def _compute_without(self, left_out: set[int], at: int, micro_batches: MicroBatches, recheck: int | None) -> Tensor:
        """The facts of `Trainer._compute`, with what is left out skipped."""
        per_step = self.spec.train.micro_batches
        facts = torch.zeros(WHOLE + EACH * per_step + self.group.world, dtype=torch.int64, device=self.device)
        whole, each = facts[:WHOLE], facts[WHOLE : -self.group.world].view(per_step, EACH)
        self.sum.clear()
        for one in self.in_rounds(micro_batches):
            indices = [None if position is None else position - at * per_step for position in one.positions]
            index, payload = indices[self.team.rank], one.mine[1] if one.mine else None
            self.passes.checksum = 0 if index is not None and index == recheck else None
            # Compute; the others' gradients arrive here, and this worker tells which do not fit.
            computed, wrong = self._pass(
                None if index in left_out else payload, at, index or 0, [i is None or i in left_out for i in indices]
            )
            for other, too_large in zip(indices, wrong, strict=True):
                if other is not None and too_large:
                    each[other, 3] = TOO_LARGE
            if index is None or payload is None:
                continue
            each[index, :3] += torch.tensor([1, self.group.rank, fingerprint(payload)], device=self.device)
            if computed is None:
                each[index, 3] = OUT_OF_MEMORY if self.passes.out_of_memory else 1
                continue
            whole[:WORDS] += words(computed[0])
            whole[WORDS] += computed[1]
            each[index, 4] = self.passes.checksum or 0
        return facts

    def _pass(
        self, payload: bytes | None, at: int, index: int, left_out: Sequence[bool]
    ) -> tuple[tuple[Tensor, Tensor] | None, list[bool]]:
        """One round: this member's micro-batch, if it has one, and its part of all members' gradients.

        Returns the loss and its count, or None if it is not finite, and whose gradient does not fit the sum.
        """
        # Forward, to what enters the heads. Without a micro-batch, gather for the others.
        self.passes.out_of_memory = False
        batch = self.opened(payload, at, index) if payload else None
        stages = self._stages([*self.model.encoder(batch), *self.model.decoder(batch)]) if batch else []
        passed = self.passes.forward(stages, batch.x if batch else None, range(self.passes.last))
        targets = self._taught(batch)
        # The heads and the loss. One that is not finite adds nothing to any sum.
        self.parameters.gather(self.passes.last)
        computed = gradient = None
        if batch and passed:
            entering = passed[-1].leaving.detach().requires_grad_()
            answered = self.passes.fitting(partial(self.loss_of_heads, batch, entering, targets))
            if answered and fits(answered[0]):
                self.passes.fitting(partial(self.passes.backward_of, self.passes.last, answered[0] / self.spec.tokens_per_step))
                computed, gradient = (answered[0].detach(), answered[1]), entering.grad
        # Backward.
        wrong = [False] * self.team_size

        def add(unit: int) -> None:
            for member, too_large in enumerate(self.passes.add(unit, self.sum, left_out)):
                wrong[member] |= too_large

        add(self.passes.last)
        self.passes.backward(passed, gradient, add)
        return None if self.passes.out_of_memory else computed, wrong

    def _taught(self, batch: Batch | None) -> Tensor | None:
        """The teacher's targets, if there is one."""
        if self.lessons is None:
            return None
        targets = self.lessons.targets(batch)
        self.passes.out_of_memory |= self.lessons.passes.out_of_memory
        return targets

    def _checksum(self, payload: bytes | None, at: int, index: int) -> int:
        self.passes.checksum = 0
        self._pass(payload, at, index, [True] * self.team_size)
        self.passes.check()
        found, self.passes.checksum = self.passes.checksum, None
        return found if payload is not None else 0

    # The evaluation

    def any_of_team(self, mine: bool) -> bool:
        return bool(self.team.sum(torch.tensor([int(mine)], device=self.device)))

    def encode(self, batch: Batch | None) -> Tensor | None:
        self.passes.out_of_memory = False
        stages = self._stages(self.model.encoder(batch)) if batch else []
        passed = self.passes.forward(stages, batch.x if batch else None, self.encoding)
        self.passes.check()
        return passed[-1].leaving if passed else None

    def losses_of(self, parts: Sequence[tuple[Batch, Tensor]]) -> list[tuple[Tensor, Tensor]]:
        return [found for part in self.rounds_of(parts) if (found := self._loss_of(part))]

    def _loss_of(self, part: tuple[Batch, Tensor] | None) -> tuple[Tensor, Tensor] | None:
        """The loss of a part of a micro-batch, and its count; without one, gather for the others."""
        batch, hidden = part or (None, None)
        entering, targets = self._decoded(batch, hidden), self._taught(batch)
        self.passes.check()
        with self.parameters.gathered([self.passes.last]):
            return self.loss_of_heads(batch, entering, targets) if batch and entering is not None else None

    @contextmanager
    def at_heads(self, batch: Batch | None, hidden: Tensor | None) -> Iterator[Tensor | None]:
        entering = self._decoded(batch, hidden)
        self.passes.check()
        with self.parameters.gathered([self.passes.last]), self.traits.low_precision():
            yield entering

    def _decoded(self, batch: Batch | None, hidden: Tensor | None) -> Tensor | None:
        """What enters the heads, from the encoder's hidden states; without a batch, gather for the others."""
        stages = self._stages(self.model.decoder(batch)) if batch else []
        passed = self.passes.forward(stages, hidden, range(len(self.encoding), self.passes.last))
        return passed[-1].leaving if passed else hidden

    def _stages(self, stages: Sequence[Stage]) -> list[Stage]:
        """The stages, with their products in the device's low precision."""

        def in_low_precision(stage: Stage, hidden: Tensor) -> Tensor:
            with self.traits.low_precision():
                return stage(hidden)

        return [partial(in_low_precision, stage) for stage in stages]


def _kept(micro_batches: MicroBatches, taken: list[tuple[int, bytes]]) -> Iterator[tuple[int, bytes]]:
    """The micro-batches, each added to `taken` as it comes."""
    for one in micro_batches:
        taken.append(one)
        yield one
