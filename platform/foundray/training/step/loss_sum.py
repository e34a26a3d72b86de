"""The sum of losses: exact for every finite one, in any order, and of the same bits for any number of workers.

A loss is rounded to units of 2^-32 nats, and the integer is cut into words of 32 bits, each an int64 of its own. Words are
added apart, so neither many losses (2^31 of them) nor a huge one can wrap around: a finite fp32 loss is below 2^128 nats.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

WORDS, BITS = 5, 32
UNITS = 2.0**32
"""Of a nat."""


def fits(loss: Tensor) -> Tensor:
    """Whether a loss is finite in fp32, and so has words: a bool, on the device."""
    return torch.isfinite(loss.detach().float())


def words(loss: Tensor) -> Tensor:
    """A loss's words [5] int64, the lowest first; all have its sign. Every operation is exact but the first rounding."""
    rest = (loss.detach().double() * UNITS).round()
    found = []
    for number in reversed(range(WORDS)):
        size = 2.0 ** (BITS * number)
        found.append((rest / size).trunc())
        rest = rest - found[-1] * size
    return torch.stack(found[::-1]).to(torch.int64)


def nats(summed: Sequence[int]) -> float:
    """The sum whose words, each summed over many losses, these are."""
    return sum(word << (BITS * number) for number, word in enumerate(summed)) / UNITS
