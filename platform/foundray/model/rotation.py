"""Rotary positions (Su et al. 2021): rotates queries and keys by angles that grow with the position.

Element i of a head is paired with element i + half, as in Llama: (a, b) becomes (a cos - b sin, b cos + a sin).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

Tables = tuple[Tensor, ...]
"""Arguments of `rotated`: cos and sin of all angles. On a CPU both are as wide as all heads, sin has the signs for swapped
halves, and a third table holds the indices that swap the halves."""


def rotary(context: int, head_width: int, theta: float) -> tuple[Tensor, Tensor]:
    """cos and sin of the angles of each position, each [T, head width]."""
    frequencies = theta ** (-torch.arange(0, head_width, 2, dtype=torch.float32) / head_width)
    angles = torch.outer(torch.arange(context, dtype=torch.float32), frequencies).repeat(1, 2)
    return angles.cos(), angles.sin()


def tables(cos: Tensor, sin: Tensor, heads: int, batch: int) -> Tables:
    """Tables for `batch` samples; cos and sin are [T, head width], or [B, T, head width] if samples differ."""
    if cos.device.type != "cpu":
        return (cos, sin) if cos.dim() == 2 else (cos[:, None], sin[:, None])
    half = cos.shape[-1] // 2
    signed = torch.cat([sin[..., :half], -sin[..., half:]], -1)
    repeats = [1] * (cos.dim() - 1) + [heads]
    rows = 2 * heads * cos.shape[-2] * batch
    return cos.repeat(repeats), signed.repeat(repeats), torch.arange(rows, dtype=torch.int32).bitwise_xor_(1)


def rotated(q: Tensor, k: Tensor, heads: int, tables: Tables) -> tuple[Tensor, Tensor]:
    """Rotate projections [B, T, D], and split them into heads [B, H, T, head width]."""
    if len(tables) == 3:
        q, k = _OnCpu.apply(q, k, *tables)
    q, k = (x.unflatten(-1, (heads, -1)).transpose(1, 2) for x in (q, k))
    return (q, k) if len(tables) == 3 else (_rotate(q, *tables), _rotate(k, *tables))


def _rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotate x [B, H, T, head width] by cos and sin [T, head width] or [B, 1, T, head width]."""
    first, second = x.chunk(2, -1)
    return x * cos + torch.cat([-second, first], -1) * sin


class _OnCpu(torch.autograd.Function):
    """The same arithmetic and bits in a third of the time, because a CPU is fast along long rows.

    A head's halves are too short for that, so the tables are as wide as all heads, and halves are swapped by copying rows. The
    gradient is rotated back, with the opposite sign of the sine.
    """

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, cos: Tensor, sin: Tensor, swap: Tensor) -> tuple[Tensor, Tensor]:
        ctx.save_for_backward(cos, sin, swap)
        return _rotate_on_cpu(q, cos, sin, swap), _rotate_on_cpu(k, cos, sin, swap)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, q: Tensor, k: Tensor) -> tuple[Tensor | None, ...]:
        cos, sin, swap = ctx.saved_tensors
        sin = -sin
        return _rotate_on_cpu(q, cos, sin, swap), _rotate_on_cpu(k, cos, sin, swap), None, None, None


def _rotate_on_cpu(x: Tensor, cos: Tensor, sin: Tensor, swap: Tensor) -> Tensor:
    x = x.contiguous()
    swapped = (x * sin).view(len(swap), -1).index_select(0, swap)
    return (x * cos).add_(swapped.view(x.shape))
