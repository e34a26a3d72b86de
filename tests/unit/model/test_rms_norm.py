"""RMSNorm on a CPU against torch's own, bit for bit."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from foundray.model.rms_norm import RMSNorm

SHAPES = [(1, 1, 8), (3, 7, 32), (12, 64, 128), (2, 5, 100), (5, 48), (2, 3, 4, 384)]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("scale", [1.0, 1e-6, 1e4])
def test_bits_of_values_and_gradients(shape: tuple[int, ...], scale: float) -> None:
    rng = torch.Generator().manual_seed(len(shape))
    values = torch.randn(shape, generator=rng) * scale
    weights, factors = torch.randn(shape[-1], generator=rng), torch.randn(shape, generator=rng)
    found = []
    for kind in (RMSNorm, nn.RMSNorm):
        norm = kind(shape[-1], 1e-6)
        norm.load_state_dict({"weight": weights})
        x = values.clone().requires_grad_()
        y, bypass = norm.with_bypass(x.sin()) if isinstance(norm, RMSNorm) else (norm(h := x.sin()), h)
        (bypass + y * factors).pow(2).sum().backward()
        assert x.grad is not None and norm.weight.grad is not None
        found.append((y.detach(), x.grad, norm.weight.grad))
    for one, other in zip(*found, strict=True):
        assert torch.equal(one, other)
        assert one.abs().max() > 0


def test_gradients_that_are_not_needed_are_not_computed() -> None:
    """A frozen weight, and an input without gradient, as in embedding or if only heads are trained."""
    norm, x = RMSNorm(8, 1e-6), torch.randn(2, 3, 8)
    norm(x).sum().backward()
    assert norm.weight.grad is not None
    norm.weight.requires_grad_(False)
    seen = x.clone().requires_grad_()
    norm(seen).sum().backward()
    assert seen.grad is not None
    assert norm.double()(x.double()).dtype == torch.float64
