"""Canary: a small computation, made while workers warm up, that shows whether machines compute the same bits.

The processor's name does not settle this: two with the same instructions may take different paths through the libraries.
So every worker computes the gradient of one layer of the spec's shape on the same values, with the kernels, precision and
threads it trains with, and the CRCs are compared. Different CRCs prove a difference; equal ones prove nothing, which is
why rechecks follow.
"""

from __future__ import annotations

import zlib
from importlib.metadata import version

import numpy as np
import torch
from torch import Tensor

from foundray.host.devices import traits
from foundray.model.backbone import Layer
from foundray.model.rotation import rotary, tables
from foundray.spec import ModelConfig
from foundray.training.elastic.messages import HARDWARE_FIELDS

WIDTH, TOKENS, SAMPLES = 1024, 64, 2
"""Upper limits: a wider layer is narrowed in all its parts, so that the canary takes a tenth of a second."""
VALUES = 65_521
"""Number of distinct values, which are repeated. A prime, so that rows of a matrix differ."""

LABELS = {"hardware": "", "gradient": "gradients of the same layer ", "threads": "CPU threads "}
"""How a difference is described, by field."""

HardwareKind = dict[str, str]
"""Values by the names in HARDWARE_FIELDS."""


def hardware_kind(shape: ModelConfig, causal: bool, device: torch.device) -> HardwareKind:
    """Describe this worker's hardware and libraries: as far as can be seen, equal descriptions compute equal bits."""
    return {
        "hardware": traits(device).hardware(device),
        "gradient": f"{canary(shape, causal, device):08x}",
        "torch": version("torch"),
        "bitsandbytes": version("bitsandbytes"),
        "threads": str(torch.get_num_threads()),
    }


def canary(shape: ModelConfig, causal: bool, device: torch.device) -> int:
    """CRC-32 of the gradients of one layer and its input."""
    shape = narrowed(shape)
    tokens = min(TOKENS, shape.context)
    with torch.random.fork_rng(devices=[]):  # leave torch's own generator alone: the run's numbers follow from its seed
        layer = Layer(shape).to(device)
    # Fill the weights and the input with values that do not depend on the machine.
    for number, parameter in enumerate(layer.parameters()):
        fan_in = parameter.shape[-1] if parameter.ndim > 1 else 1
        with torch.no_grad():
            parameter.copy_(seeded(parameter.shape, number + 2, fan_in**-0.5))
    x = seeded((SAMPLES, tokens, shape.width), 0, 1.0).to(device).requires_grad_()
    weights = seeded((SAMPLES, tokens, shape.width), 1, 1.0).to(device)
    cos, sin = (table.to(device) for table in rotary(tokens, shape.width // shape.heads, shape.rope_theta or 1.0))
    # One backward pass; the CRC covers the gradients in a fixed order.
    with traits(device).low_precision():
        (layer(x, tables(cos, sin, shape.heads, SAMPLES), None, causal).float() * weights).sum().backward()
    crc = 0
    for tensor in (x, *layer.parameters()):
        assert tensor.grad is not None
        crc = zlib.crc32(tensor.grad.cpu().numpy().tobytes(), crc)
    return crc


def narrowed(shape: ModelConfig) -> ModelConfig:
    """Limit the layer to the canary's width; heads keep their size."""
    head = shape.width // shape.heads
    return shape if shape.width <= WIDTH else shape.of_width(max(head, WIDTH // head * head))


def seeded(size: tuple[int, ...], number: int, scale: float) -> Tensor:
    """Return values in [-scale, scale) that are the same on every machine: a generator's raw bits and two products."""
    numbers = np.random.Philox(key=number).random_raw(VALUES) >> np.uint64(48)
    values = (numbers.astype(np.float32) - np.float32(2**15)) / np.float32(2**15) * np.float32(scale)
    return torch.from_numpy(np.resize(values, size))


def differences(kinds: list[HardwareKind]) -> str:
    """List what differs, such as `AVX2 and AVX512, torch 2.9 and 2.10`; empty if all workers compute alike."""
    parts = []
    for field in HARDWARE_FIELDS:
        if len(found := sorted({one.get(field, "unknown") for one in kinds})) > 1:
            parts.append(f"{LABELS.get(field, field + ' ')}{' and '.join(found)}")
    return ", ".join(parts)
