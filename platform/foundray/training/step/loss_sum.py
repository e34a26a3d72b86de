"""The sum of losses: exact for finite losses, in any order, with the same bits for any number of workers.

A loss is rounded to units of 2^-32 nats, and the integer is split into words of 32 bits, each in its own int64. Words are
added separately, so neither many losses (2^31) nor a huge one can overflow: a finite fp32 loss is below 2^128 nats.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

WORDS, BITS = 5, 32
UNITS = 2.0**32
"""Units per nat."""


def fits(loss: Tensor) -> Tensor:
    """Whether a loss is finite in fp32, and so has words: a bool tensor on the device."""
    return torch.isfinite(loss.detach().float())


def words(loss: Tensor) -> Tensor:
    """Split a loss into words [5] int64, lowest first, all with its sign. Every operation but the first rounding is exact."""
    rest = (loss.detach().double() * UNITS).round()
    found = []
    for number in reversed(range(WORDS)):
        size = 2.0 ** (BITS * number)
        found.append((rest / size).trunc())
        rest = rest - found[-1] * size
    return torch.stack(found[::-1]).to(torch.int64)


def nats(summed: Sequence[int]) -> float:
    """The sum in nats, from words that were each summed over all losses."""
    return sum(word << (BITS * number) for number, word in enumerate(summed)) / UNITS
