"""What keeps bad numbers out of the weights: an estimate that tells loss spikes, and a recheck that tells bad machines."""

from __future__ import annotations

import statistics
import zlib
from collections import Counter, deque
from collections.abc import Iterable
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # the driver has a use for the rest, and none for torch
    from torch import Tensor

WINDOW = 64
"""Losses that the estimate is made of."""
FEWEST = 16
"""No spike is told from fewer losses."""
FLOOR = 1e-3
"""Least deviation that counts as one, as a part of the median: a loss that hardly moves is not a row of spikes."""


Losses = tuple[tuple[int, float], ...]
"""(step, loss) of steps in order."""


class SpikeGuard:
    """Tells a loss that lies above the median of the last ones by more than so many robust standard deviations.

    Median and median absolute deviation are not moved by the spikes themselves, which do not enter the estimate. Its window,
    the last losses that were none, is part of the run's state: every worker, and a resumed run, judges alike.
    """

    def __init__(self, deviations: float | None):
        self.deviations = deviations
        self.losses: deque[tuple[int, float]] = deque(maxlen=WINDOW)

    def window(self) -> Losses:
        """What belongs to the state after the last update."""
        return tuple(self.losses)

    def restore(self, losses: Iterable[tuple[int, float]], done: int) -> None:
        """Take over the window of the state after `done` steps; later losses, and all but the last ones, are ignored."""
        self.losses = deque(sorted((step, loss) for step, loss in losses if step <= done), WINDOW)

    def add(self, step: int, loss: float) -> None:
        """The update of a step that is no spike is made."""
        if self.deviations is not None:
            self.losses.append((step, loss))

    def is_spike(self, loss: float) -> bool:
        """Judge the loss of the step that follows the last update."""
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
    """The loss of a step is a spike that the run is to roll back from."""

    def __init__(self, step: int, loss: float):
        super().__init__(f"the loss of step {step}, {loss:.4g}, is a spike")
        self.step = step


class Corruption(RuntimeError):
    """A machine computed other numbers than the others from the same input."""

    def __init__(self, step: int, index: int, ranks: list[int]):
        super().__init__(f"workers {ranks} differ from the others in micro-batch {index} of step {step}")
        self.ranks = ranks


def checksum(gradient: Tensor) -> int:
    """CRC-32 of a flat gradient's bits."""
    return zlib.crc32(gradient.detach().cpu().numpy().tobytes())


def odd_ones_out(taker: int, first: int, again: list[int]) -> list[int]:
    """The ranks whose checksum of one micro-batch is not the others'.

    `first` is what the taker had in the step, `again` what every rank got when all computed it once more. Where there is
    no majority, nobody can say who is right, and all are named.
    """
    if again[taker] != first:
        return [taker]
    (common, times), *_ = Counter(again).most_common(1)
    if times == len(again):
        return []
    if times * 2 <= len(again):
        return list(range(len(again)))
    return [rank for rank, value in enumerate(again) if value != common]
