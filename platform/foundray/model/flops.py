"""Floating-point operations that training costs, and peak FLOP/s of accelerators."""

from __future__ import annotations

from foundray.spec import Spec

PEAKS = {
    "A100": 312e12,
    "A10G": 70e12,
    "A40": 150e12,
    "B200": 2250e12,
    "H100 PCIe": 756e12,
    "H100 NVL": 835e12,
    "H100": 989e12,
    "H200": 989e12,
    "L40S": 362e12,
    "L4": 121e12,
    "RTX 3090": 71e12,
    "RTX 4090": 165e12,
    "RTX 5090": 209e12,
    "RTX A6000": 155e12,
}
"""Peak FLOP/s of dense bf16 matrix products with fp32 accumulation, by part of the device's name; the first match counts.

Source: NVIDIA's data sheets, which mostly print twice as much, for sparse matrices; A10G: AWS's G5 page.
"""


def known_peak(device: str) -> float | None:
    """Peak FLOP/s of a device, by its name in torch; None if it is not in the table."""
    words = f"{device} "
    return next((peak for name, peak in PEAKS.items() if f" {name} " in words or f" {name}-" in words), None)


def parameters_of(spec: Spec, classes: int) -> int:
    """Number of elements of the model's matrices without the embedding table, which is looked up: the N of scaling laws.

    `classes` is the number of ids in the data, 0 for values.
    """
    import torch  # here, because the driver imports this module and does not need torch

    from foundray.model.model import Model

    with torch.device("meta"):
        model = Model(spec.model, spec.objective.build(), spec.unit_shape(classes))
    return sum(p.numel() for name, p in model.named_parameters() if p.dim() >= 2 and not name.endswith("embed_tokens.weight"))


def flops(spec: Spec, classes: int, steps: int, judged: int = 0) -> float:
    """FLOPs of `steps` training steps and `judged` evaluated units: 6 N + 12 L D T per unit (Chowdhery et al. 2022).

    An evaluated unit costs a third. Units that an objective drops (in a masked autoencoder) are not deducted, for proxy and
    full run alike.
    """
    shape = spec.model
    per_unit = 6 * parameters_of(spec, classes) + 12 * shape.depth * shape.width * shape.context
    return per_unit * (steps * spec.tokens_per_step + judged / 3)
