"""The 8-bit updates on a CPU against bitsandbytes' own, bit for bit."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from foundray.training.step.blocks import BLOCK
from foundray.training.step.optimizers.eight_bit import load_bitsandbytes
from foundray.training.step.optimizers.eight_bit_cpu import CHUNK, CODES, HALF, Quantiser, adamw, lion, on_cpu

KINDS = {"adamw8bit": ("AdamW8bit", adamw), "lion8bit": ("Lion8bit", lion)}
SCALES = (1.0, 1e-3, 1e-12, 1e-20, 1e-30, 1e18, 0.0)
"""Scales of gradients; for some, squares are subnormal, zero or infinite."""


@pytest.fixture(scope="module", autouse=True)
def loaded() -> None:
    """bitsandbytes as workers load it, whose import costs seconds that other processes of the tests need not spend."""
    load_bitsandbytes()


def table(signed: bool) -> Tensor:
    """Values of bitsandbytes' 256 codes."""
    from bitsandbytes.functional import create_dynamic_map

    return create_dynamic_map(signed)


def theirs(values: Tensor, code: Tensor) -> tuple[Tensor, Tensor]:
    codes, scales = torch.ops.bitsandbytes.quantize_blockwise(values, code, BLOCK)
    return codes, scales


def ours(values: Tensor, code: Tensor) -> tuple[Tensor, Tensor]:
    codes, scales = torch.empty(len(values), dtype=torch.uint8), torch.empty(len(values) // BLOCK)
    quantiser = Quantiser(code)
    assert quantiser.agrees
    for start in range(0, len(values), CHUNK):
        where = slice(start, start + CHUNK)
        blocks = slice(start // BLOCK, (start + CHUNK) // BLOCK)
        quantiser.quantise(values[where], codes[where], scales[blocks])
    return codes, scales


def assert_same(values: Tensor, code: Tensor) -> None:
    for one, other in zip(ours(values, code), theirs(values, code), strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("signed", [True, False])
def test_every_boundary_between_two_entries_of_the_table(signed: bool) -> None:
    """And at the 24 numbers around each: every other number lies between two of those tested, and rounding is monotonic."""
    code = table(signed)
    boundaries = ((np.arange(CODES - 1) + 0.5) / HALF - 1).astype(np.float32)
    near = np.concatenate([(boundaries.view(np.int32) + step).view(np.float32) for step in range(-12, 13)])
    near = near[np.abs(near) <= 1]
    rows = -(-len(near) // (BLOCK - 1))
    blocks = np.ones((rows, BLOCK), np.float32)  # a 1 in each makes its scale 1
    blocks[:, 1:].flat[: len(near)] = near
    assert_same(torch.from_numpy(blocks.ravel()), code)


@pytest.mark.parametrize("signed", [True, False])
@pytest.mark.parametrize("scale", [1.0, 1e-3, 1e-30, 1e38, 1e-37, 1e-38, 3e-39, 1e-41, 1e-44])
def test_blocks_of_any_scale(signed: bool, scale: float) -> None:
    values = torch.randn(2000 * BLOCK, generator=torch.Generator().manual_seed(0)) * scale
    values[: 2 * BLOCK], values[3 * BLOCK] = 0.0, float("inf")
    assert_same(values if signed else values.abs(), table(signed))


@pytest.mark.parametrize("signed", [True, False])
@pytest.mark.parametrize("direct", [True, False])
def test_what_every_code_stands_for(signed: bool, direct: bool) -> None:
    """Computed by bitsandbytes' kernel if it can be called directly, else by its operation."""
    code = table(signed)
    codes = torch.arange(256, dtype=torch.uint8).repeat(len(SCALES))
    scales, values = torch.tensor(SCALES), torch.empty(len(SCALES) * BLOCK)
    quantiser = Quantiser(code)
    assert quantiser.kernel is not None
    if not direct:
        quantiser.kernel = None
    quantiser.values(codes, scales, values)
    theirs = torch.ops.bitsandbytes.dequantize_blockwise(codes, scales, code, BLOCK, torch.float32)
    assert torch.equal(values.view(torch.int32), theirs.view(torch.int32))


@pytest.mark.parametrize("kind", list(KINDS))
@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
def test_updates(kind: str, weight_decay: float) -> None:
    """With more elements than one chunk, gradients of all scales, blocks without gradients, and a changing learning rate."""
    rng = torch.Generator().manual_seed(2)
    first = torch.randn(CHUNK + 9 * BLOCK, generator=rng)
    name, rule = KINDS[kind]
    make = getattr(load_bitsandbytes().optim, name)
    weights, updates = [], []
    for fast in (True, False):
        weights.append(torch.nn.Parameter(first.clone()))
        group: dict[str, Any] = {"params": [weights[-1]], "weight_decay": weight_decay}
        updates.append(make([group], lr=1e-2, betas=(0.9, 0.95), min_8bit_size=1))
        if fast:
            updates[-1].update_step = on_cpu(updates[-1], rule)
    for step in range(6):
        gradient = torch.randn(len(first), generator=rng)
        for number, scale in enumerate(SCALES):
            gradient[number * 3 * BLOCK :][: 3 * BLOCK] *= scale
        for parameter, update in zip(weights, updates, strict=True):
            parameter.grad = gradient.clone()
            update.param_groups[0]["lr"] = 1e-2 / (step + 1)
            update.step()
        fast, plain = (update.state[parameter] for parameter, update in zip(weights, updates, strict=True))
        assert torch.equal(weights[0].view(torch.int32), weights[1].view(torch.int32))
        for name, value in plain.items():
            assert torch.equal(fast[name], value) if torch.is_tensor(value) else fast[name] == value, name
