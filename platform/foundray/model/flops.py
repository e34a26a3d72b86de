"""What training costs, in floating-point operations, and how many of them accelerators can do."""

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
"""FLOP/s of dense bf16 matrix products with sums in fp32, by a part of the device's name; the first that fits counts.

From NVIDIA's data sheets, which mostly print twice as much, for sparse matrices; A10G: AWS's G5 page.
"""


def known_peak(device: str) -> float | None:
    """FLOP/s of a device by its name, as torch gives it; None where it is not in the table."""
    words = f"{device} "
    return next((peak for name, peak in PEAKS.items() if f" {name} " in words or f" {name}-" in words), None)


def parameters_of(spec: Spec, classes: int) -> int:
    """Elements of the model's matrices, but of the table of embeddings, which is looked up: the N of scaling laws.

    `classes` are the data's ids, 0 for values.
    """
    import torch  # not above: the driver has a use for the rest, and none for torch

    from foundray.model.model import Model

    with torch.device("meta"):
        model = Model(spec.model, spec.objective.build(), spec.unit_shape(classes))
    return sum(p.numel() for name, p in model.named_parameters() if p.dim() >= 2 and not name.endswith("embed_tokens.weight"))


def flops(spec: Spec, classes: int, steps: int, judged: int = 0) -> float:
    """Of training for some steps and judging by `judged` units: 6 N a unit and 12 L D T for attention (Chowdhery et al. 2022).

    A unit that is judged takes a third. What an objective leaves out (kept units of a masked autoencoder) is not deducted, for
    proxy and full run alike.
    """
    shape = spec.model
    unit = 6 * parameters_of(spec, classes) + 12 * shape.depth * shape.width * shape.context
    return unit * (steps * spec.tokens_per_step + judged / 3)
