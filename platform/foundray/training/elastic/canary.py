"""The canary: whether machines compute the same bits, seen from a small computation that all do while they warm up.

A kind of processor does not tell: two with the same instructions may take different paths through the libraries. So every
worker computes the gradient of one layer of the spec's shape on the same values, with the kernels, the precision and the
threads that it trains with, and the CRC of it is compared. Equal ones are no proof, which is why rechecks follow; different
ones are.
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
from foundray.training.elastic.messages import KIND

WIDTH, TOKENS, SAMPLES = 1024, 64, 2
"""At most: a wider layer is made narrower in all its parts, so that the canary takes a tenth of a second."""
VALUES = 65_521
"""Different numbers, repeated; a prime, so that rows of a matrix differ."""

WORDS = {"hardware": "", "gradient": "gradients of the same layer ", "threads": "CPU threads "}
"""How a difference is told."""

Kind = dict[str, str]
"""By the words of KIND."""


def kind(shape: ModelConfig, causal: bool, device: torch.device) -> Kind:
    """Of this worker: equal ones compute equal bits, as far as can be seen."""
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
    with torch.random.fork_rng(devices=[]):  # torch's own generator is left alone: a run's numbers follow from its seed
        layer = Layer(shape).to(device)
    for number, parameter in enumerate(layer.parameters()):
        fan_in = parameter.shape[-1] if parameter.ndim > 1 else 1
        with torch.no_grad():
            parameter.copy_(seeded(parameter.shape, number + 2, fan_in**-0.5))
    x = seeded((SAMPLES, tokens, shape.width), 0, 1.0).to(device).requires_grad_()
    weights = seeded((SAMPLES, tokens, shape.width), 1, 1.0).to(device)
    cos, sin = (table.to(device) for table in rotary(tokens, shape.width // shape.heads, shape.rope_theta or 1.0))
    with traits(device).low_precision():
        (layer(x, tables(cos, sin, shape.heads, SAMPLES), None, causal).float() * weights).sum().backward()
    crc = 0
    for tensor in (x, *layer.parameters()):
        assert tensor.grad is not None
        crc = zlib.crc32(tensor.grad.cpu().numpy().tobytes(), crc)
    return crc


def narrowed(shape: ModelConfig) -> ModelConfig:
    """The layer's shape, no wider than a canary is; heads keep their size."""
    head = shape.width // shape.heads
    return shape if shape.width <= WIDTH else shape.of_width(max(head, WIDTH // head * head))


def seeded(size: tuple[int, ...], number: int, scale: float) -> Tensor:
    """Values in [-scale, scale) that are the same on every machine: a generator's raw bits, and two products."""
    numbers = np.random.Philox(key=number).random_raw(VALUES) >> np.uint64(48)
    values = (numbers.astype(np.float32) - np.float32(2**15)) / np.float32(2**15) * np.float32(scale)
    return torch.from_numpy(np.resize(values, size))


def differences(kinds: list[Kind]) -> str:
    """What the workers do not have in common, as `AVX2 and AVX512, torch 2.9 and 2.10`; empty where they compute alike."""
    parts = []
    for word in KIND:
        if len(found := sorted({one.get(word, "unknown") for one in kinds})) > 1:
            parts.append(f"{WORDS.get(word, word + ' ')}{' and '.join(found)}")
    return ", ".join(parts)
