"""Rotary positions (Su et al. 2021): queries and keys, rotated by angles that grow with the position.

Element i of a head goes with element i + half, as Llama lays them out: (a, b) becomes (a cos - b sin, b cos + a sin).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

Tables = tuple[Tensor, ...]
"""What `rotated` takes: cos and sin of all angles; on a CPU as wide as all heads, the latter with the signs that the halves
need when they are exchanged, and the places that exchange them."""


def rotary(context: int, head_width: int, theta: float) -> tuple[Tensor, Tensor]:
    """cos and sin of every position's angles, each [T, head width]."""
    frequencies = theta ** (-torch.arange(0, head_width, 2, dtype=torch.float32) / head_width)
    angles = torch.outer(torch.arange(context, dtype=torch.float32), frequencies).repeat(1, 2)
    return angles.cos(), angles.sin()


def tables(cos: Tensor, sin: Tensor, heads: int, batch: int) -> Tables:
    """For queries and keys of `batch` samples; cos and sin are [T, head width], or [B, T, head width] where samples differ."""
    if cos.device.type != "cpu":
        return (cos, sin) if cos.dim() == 2 else (cos[:, None], sin[:, None])
    half = cos.shape[-1] // 2
    signed = torch.cat([sin[..., :half], -sin[..., half:]], -1)
    repeats = [1] * (cos.dim() - 1) + [heads]
    rows = 2 * heads * cos.shape[-2] * batch
    return cos.repeat(repeats), signed.repeat(repeats), torch.arange(rows, dtype=torch.int32).bitwise_xor_(1)


def rotated(q: Tensor, k: Tensor, heads: int, tables: Tables) -> tuple[Tensor, Tensor]:
    """From projections [B, T, D] to [B, H, T, head width]."""
    if len(tables) == 3:
        q, k = _OnCpu.apply(q, k, *tables)
    q, k = (x.unflatten(-1, (heads, -1)).transpose(1, 2) for x in (q, k))
    return (q, k) if len(tables) == 3 else (_rotate(q, *tables), _rotate(k, *tables))


def _rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """x: [B, H, T, head width]; cos, sin: [T, head width], or [B, 1, T, head width]."""
    first, second = x.chunk(2, -1)
    return x * cos + torch.cat([-second, first], -1) * sin


class _OnCpu(torch.autograd.Function):
    """The same arithmetic and bits in a third of the time: a CPU is fast along rows that are long.

    A head's halves are too short for that, so all is multiplied by tables as wide as all heads, and halves are exchanged as
    rows that are copied. The gradient is rotated back: the sine has the other sign.
    """

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, cos: Tensor, sin: Tensor, exchanged: Tensor) -> tuple[Tensor, Tensor]:
        ctx.save_for_backward(cos, sin, exchanged)
        return _turned(q, cos, sin, exchanged), _turned(k, cos, sin, exchanged)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, q: Tensor, k: Tensor) -> tuple[Tensor | None, ...]:
        cos, sin, exchanged = ctx.saved_tensors
        sin = -sin
        return _turned(q, cos, sin, exchanged), _turned(k, cos, sin, exchanged), None, None, None


def _turned(x: Tensor, cos: Tensor, sin: Tensor, exchanged: Tensor) -> Tensor:
    x = x.contiguous()
    crosswise = (x * sin).view(len(exchanged), -1).index_select(0, exchanged)
    return (x * cos).add_(crosswise.view(x.shape))
