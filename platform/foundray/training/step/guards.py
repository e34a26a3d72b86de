"""Guards that keep bad numbers out of the weights: a detector of loss spikes, and a recheck that finds bad machines."""

from __future__ import annotations

import statistics
import zlib
from collections import Counter, deque
from collections.abc import Iterable
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # the driver uses the rest, and needs no torch
    from torch import Tensor

WINDOW = 64
"""Losses that the estimate uses."""
FEWEST = 16
"""Fewer losses than this never flag a spike."""
FLOOR = 1e-3
"""Smallest standard deviation, as a fraction of the median: otherwise every change of a nearly constant loss is a spike."""


Losses = tuple[tuple[int, float], ...]
"""(step, loss) of steps in order."""


class SpikeGuard:
    """Flags a loss that exceeds the median of recent losses by more than `deviations` robust standard deviations.

    The estimate uses the median and the median absolute deviation, and leaves spikes out. Its window, the latest losses that
    were not spikes, is part of the run's state: every worker, and a resumed run, decides alike.
    """

    def __init__(self, deviations: float | None):
        self.deviations = deviations
        self.losses: deque[tuple[int, float]] = deque(maxlen=WINDOW)

    def window(self) -> Losses:
        """The losses that belong to the state after the last update."""
        return tuple(self.losses)

    def restore(self, losses: Iterable[tuple[int, float]], done: int) -> None:
        """Restore the window of the state after `done` steps; later losses, and all but the latest `WINDOW`, are ignored."""
        self.losses = deque(sorted((step, loss) for step, loss in losses if step <= done), WINDOW)

    def add(self, step: int, loss: float) -> None:
        """Record the loss of a step that was no spike, after its update."""
        if self.deviations is not None:
            self.losses.append((step, loss))

    def is_spike(self, loss: float) -> bool:
        """Whether the loss of the step after the last update is a spike."""
        if self.deviations is None:
            return False
        values = [value for _, value in self.losses]
        if len(values) >= FEWEST:
            middle = statistics.median(values)
            spread = 1.4826 * statistics.median(abs(value - middle) for value in values)
            if loss > middle + self.deviations * max(spread, FLOOR * abs(middle)):
                return True
        return False


class Spike(RuntimeError):
    """A loss spike from which the run should roll back."""

    def __init__(self, step: int, loss: float):
        super().__init__(f"the loss of step {step}, {loss:.4g}, is a spike")
        self.step = step


class Corruption(RuntimeError):
    """A machine computed different numbers from the same input than the others."""

    def __init__(self, step: int, index: int, ranks: list[int]):
        super().__init__(f"workers {ranks} differ from the others in micro-batch {index} of step {step}")
        self.ranks = ranks


def checksum(gradient: Tensor) -> int:
    """CRC-32 of a flat gradient's bits."""
    return zlib.crc32(gradient.detach().cpu().numpy().tobytes())


def odd_ones_out(taker: int, first: int, again: list[int]) -> list[int]:
    """The ranks whose checksum of one micro-batch differs from the others'.

    `first` is the taker's checksum in the step, `again` that of every rank when all computed the micro-batch once more.
    Without a majority nobody can say who is right, and all ranks are returned.
    """
    if again[taker] != first:
        return [taker]
    (common, times), *_ = Counter(again).most_common(1)
    if times == len(again):
        return []
    if times * 2 <= len(again):
        return list(range(len(again)))
    return [rank for rank, value in enumerate(again) if value != common]
