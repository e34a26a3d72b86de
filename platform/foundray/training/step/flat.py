"""One flat parameter space: all parameters in one buffer, each padded to whole blocks of 256 elements.

256 is the block of bitsandbytes' 8-bit quantisation. A worker owns a contiguous range of blocks, so no block is ever shared,
the 8-bit state has the same bits for any number of workers, and resharding is slicing.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import groupby

import torch
from torch import Tensor, nn

from foundray.model.model import Model
from foundray.model.parametrisation import Scaling
from foundray.training.step.blocks import BLOCK, Blocks


@dataclass(frozen=True)
class Entry:
    """A parameter's position in the flat space."""

    name: str
    shape: tuple[int, ...]
    first: int
    """First block."""
    blocks: int
    scaling: Scaling
    """The factors of its hyperparameters."""

    @property
    def elements(self) -> slice:
        """Its elements in the flat buffer, without the padding."""
        return slice(self.first * BLOCK, self.first * BLOCK + torch.Size(self.shape).numel())


@dataclass(frozen=True)
class Layout:
    """The order of parameters in the flat space: matrices, then vectors; within each by scaling, then by name."""

    entries: tuple[Entry, ...]

    @staticmethod
    def of(model: Model) -> Layout:
        entries, first, scalings = [], 0, model.scalings
        order = sorted(model.named_parameters(), key=lambda item: (item[1].dim() < 2, scalings[item[0]], item[0]))
        for name, parameter in order:
            blocks = -(-parameter.numel() // BLOCK)
            entries.append(Entry(name, tuple(parameter.shape), first, blocks, scalings[name]))
            first += blocks
        return Layout(tuple(entries))

    @property
    def blocks(self) -> int:
        return self.entries[-1].first + self.entries[-1].blocks

    def share(self, world: int) -> int:
        """Blocks per worker if shares are equal; the last ones are padded."""
        return -(-self.blocks // world)

    def spans(self, shard: Blocks) -> list[tuple[range, Scaling]]:
        """Cut the shard where hyperparameters change: ranges of positions in it, and their scaling."""
        spans: list[tuple[range, Scaling]] = []
        alike = [(s, list(entries)) for s, entries in groupby(self.entries, key=lambda entry: entry.scaling)]
        before = 0
        for run in shard.ranges:
            for scaling, entries in alike:
                start, stop = max(run.start, entries[0].first), min(run.stop, entries[-1].first + entries[-1].blocks)
                if start < stop:
                    here = range(before + start - run.start, before + stop - run.start)
                    if spans and spans[-1][1] == scaling and spans[-1][0].stop == here.start:
                        here = range(spans.pop()[0].start, here.stop)
                    spans.append((here, scaling))
            before += len(run)
        return spans


class FlatParameters:
    """A model's parameters and gradients, moved into two buffers that the sum, the collectives and the update use.

    The buffers have room for the padding that equal shares of up to `most` workers need, so that a group of another size
    uses the same buffers.
    """

    def __init__(self, model: nn.Module, layout: Layout, most: int):
        device = next(model.parameters()).device
        self.layout = layout
        self.buffer = torch.zeros((layout.blocks + most - 1) * BLOCK, device=device)
        """[(blocks + most - 1) * 256] fp32: the master weights. Every worker holds all of them, and owners update theirs."""
        self.blocks = Blocks((range(layout.blocks),))
        """The blocks that this worker holds, in the order of the buffer."""
        self.gradient = torch.zeros_like(self.buffer)
        """What this worker's backward passes added since the buffer was cleared."""
        # Each parameter, and its gradient, becomes a view of the buffers.
        parameters = dict(model.named_parameters())
        for entry in layout.entries:
            parameter, view = parameters[entry.name], self.buffer[entry.elements].view(entry.shape)
            view.copy_(parameter.data)
            parameter.data = view
            parameter.grad = self.gradient[entry.elements].view(entry.shape)

    def clear_padding(self) -> None:
        """Set what fills parameters up to whole blocks to zero: updates move it, too, and checkpoints hold it."""
        for entry in self.layout.entries:
            self.buffer[entry.elements.stop : (entry.first + entry.blocks) * BLOCK].zero_()

    def named(self) -> dict[str, Tensor]:
        return {entry.name: self.buffer[entry.elements].view(entry.shape) for entry in self.layout.entries}

    def weights(self) -> Iterator[tuple[str, Tensor]]:
        """The master weights by name, in name order, on the CPU."""
        for name, tensor in sorted(self.named().items()):
            yield name, tensor.detach().cpu()


def part(buffer: Tensor, own: range) -> Tensor:
    """A view of some blocks of a buffer, by their positions in it."""
    return buffer[own.start * BLOCK : own.stop * BLOCK]
