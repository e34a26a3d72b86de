"""The sum of micro-batch gradients, exact or rounded.

Floating-point addition depends on order, integer addition does not. `ExactSum` turns every micro-batch's gradient into
fixed point (int64, in units of 2^-48) and adds integers, so the sum has the same bits whichever worker computed what.
An element's error is at most 2^-49 per micro-batch. Gradients are of the mean loss, so their elements are of order
1/sqrt(parameters), and the relative error of the sum stays far below that of fp32.
"""

from __future__ import annotations

import torch
from torch import Tensor

from foundray.host.devices import traits

SCALE = 2.0**48


class ExactSum:
    """Sums flat fp32 gradients as integers in `total`, [elements] int64."""

    def __init__(self, elements: int, micro_batches: int, device: torch.device):
        self.total = torch.zeros(elements, dtype=torch.int64, device=device)
        self.limit = 2.0**62 / SCALE / micro_batches
        """Largest magnitude of an element for which the sum of all micro-batches stays within 63 bits."""
        self.chunk = min(traits(device).chunk, elements)
        self.scaled = torch.empty(self.chunk, device=device)
        self.units = torch.empty(self.chunk, dtype=torch.int64, device=device)
        self.free = torch.empty(0, device=device)
        """The half of the last shard's memory that its conversion to fp32 has left free."""
        self.cleared = False
        """Whether the next gradient overwrites `total`, which saves writing zeros and reading them back."""

    def clear(self) -> None:
        self.cleared = True

    def add(self, gradient: Tensor, start: int = 0) -> None:
        """Add a gradient, whose first element is the sum's element `start`."""
        part = self.total[start : start + len(gradient)]
        if len(part) < len(self.total):
            self.summed()  # the rest is zero
        for total, values in zip(part.split(self.chunk), gradient.split(self.chunk), strict=True):
            scaled, units = self.scaled[: len(values)], self.units[: len(values)]
            torch.mul(values, SCALE, out=scaled)
            if self.cleared:
                total.copy_(scaled.round_())
            else:
                total += units.copy_(scaled.round_())
        self.cleared = False

    def summed(self) -> Tensor:
        """All of `total`: zeros if nothing was added since it was cleared."""
        if self.cleared:
            self.total.zero_()
            self.cleared = False
        return self.total

    def as_float(self, shard: Tensor, factor: float) -> Tensor:
        """Convert a shard of the reduced sum to fp32, times a factor (1 / SCALE is a power of two: no bit is lost).

        The result lies in the first half of the shard's own memory.
        """
        values, self.free = shard.view(torch.float32).split(len(shard)) if len(shard) else (shard.float(), shard.float())
        for part, units in zip(values.split(self.chunk), shard.split(self.chunk), strict=True):
            # Its place overlaps these units, and those before: they are read first.
            part.copy_(self.scaled[: len(units)].copy_(units).mul_(factor / SCALE))
        return values

    def spare(self, elements: int) -> Tensor:
        """[elements] fp32 that nothing uses before the next step: of the sum's own memory, if that has been converted."""
        return self.free[:elements] if elements <= len(self.free) else torch.empty(elements, device=self.total.device)


class RoundedSum:
    """Sums in fp32, with half the memory: bits depend on which worker computed what, and loss curves agree to rounding."""

    def __init__(self, elements: int, micro_batches: int, device: torch.device):
        self.total = torch.zeros(elements, device=device)
        self.limit = torch.finfo(torch.float32).max

    def clear(self) -> None:
        self.total.zero_()

    def add(self, gradient: Tensor, start: int = 0) -> None:
        self.total[start : start + len(gradient)] += gradient

    def summed(self) -> Tensor:
        return self.total

    def as_float(self, shard: Tensor, factor: float) -> Tensor:
        return shard.mul_(factor)

    def spare(self, elements: int) -> Tensor:
        return torch.empty(elements, device=self.total.device)


GradientSum = ExactSum | RoundedSum


def overflows(gradient: Tensor, limit: float) -> Tensor:
    """Whether an element is not finite, or larger in magnitude than the limit: a bool tensor on the device."""
    # On a CPU, two passes take two thirds of the time of aminmax.
    low, high = (gradient.amin(), gradient.amax()) if gradient.device.type == "cpu" else torch.aminmax(gradient)
    return ~((low >= -limit) & (high <= limit))
