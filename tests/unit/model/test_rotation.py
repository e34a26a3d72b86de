"""Rotary positions on a CPU against the plain formula, forward and backward, bit for bit."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from foundray.model.rotation import _rotate, rotary, rotated, tables


def by_formula(x: Tensor, cos: Tensor, sin: Tensor, heads: int) -> Tensor:
    """Rotate [B, T, D] to [B, H, T, head width] with operations that autograd differentiates."""
    return _rotate(x.unflatten(-1, (heads, -1)).transpose(1, 2), cos, sin)


@pytest.mark.parametrize(("heads", "width"), [(1, 2), (3, 6), (4, 32), (2, 64)])
@pytest.mark.parametrize("kept", [False, True])
def test_bits_of_values_and_gradients(heads: int, width: int, kept: bool) -> None:
    """With the same positions for all samples, and with each sample's own."""
    rng = torch.Generator().manual_seed(0)
    cos, sin = rotary(12, width, 10_000.0)
    if kept:
        positions = torch.stack([torch.randperm(12, generator=rng)[:5].sort().values for _ in range(3)])
        cos, sin = cos[positions], sin[positions]
    length = cos.shape[-2]
    q, k = (torch.randn(3, length, heads * width, generator=rng, requires_grad=True) for _ in range(2))
    weights = torch.randn(2, 3, heads, length, width, generator=rng)
    plain = (cos[:, None], sin[:, None]) if kept else (cos, sin)

    fast = torch.stack(rotated(q, k, heads, tables(cos, sin, heads, 3)))
    slow = torch.stack([by_formula(x, *plain, heads) for x in (q, k)])
    assert torch.equal(fast, slow)
    assert not torch.equal(fast[0, :, :, -1], q.unflatten(-1, (heads, -1)).transpose(1, 2)[:, :, -1])
    for one, other in zip(*(torch.autograd.grad((x * weights).sum(), (q, k)) for x in (fast, slow)), strict=True):
        assert torch.equal(one, other)
        assert one.abs().max() > 0
