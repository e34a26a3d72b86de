"""CompleteP: hyperparameters found on a small model stay right for a wider and deeper one (Dey et al. 2025; Yang et al. 2022).

With m times the base's width and mL times its depth, Adam's learning rate of a matrix between two widths is divided by m, its
decay multiplied by m, a branch's output divided by mL before it is added, what a head gives divided by m, and epsilon made
smaller as gradients become smaller. Embeddings, stems, vectors and heads keep their rate. A model of the base's size is the
standard one. Heads of attention keep their size, so that their logits need no scale of their own.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor, nn
from torch.nn import functional as F


@dataclass(frozen=True, order=True)
class Scaling:
    """By what a parameter's hyperparameters are multiplied."""

    lr: float = 1.0
    weight_decay: float = 1.0
    eps: float = 1.0


class Readout(nn.Linear):
    """A head's matrix, [outputs, D], whose answers are divided by how many times as wide as the base's its input is."""

    def __init__(self, width: int, outputs: int, width_mult: float):
        super().__init__(width, outputs, bias=False)
        self.width_mult = width_mult

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x if self.width_mult == 1 else x / self.width_mult, self.weight)


def scalings(model: nn.Module, base: nn.Module | None, width_mult: float, depth_mult: float) -> Mapping[str, Scaling]:
    """Of every parameter, by name. `base` is the same model at its base's width and depth; without one, the standard ones.

    Vectors do not decay. Which matrices are between two widths shows in their shapes.
    """
    shapes = {name: parameter.shape for name, parameter in (base or model).named_parameters()}
    found = {}
    for name, parameter in model.named_parameters():
        matrix = parameter.dim() >= 2
        inside = name.startswith("model.layers.")  # where a gradient passes a branch, and is smaller for it
        there = shapes[_at_base_depth(name) if base else name]
        grows = matrix and all(here != was for here, was in zip(parameter.shape, there, strict=True))
        found[name] = Scaling(
            lr=1 / width_mult if grows else 1.0,
            weight_decay=0.0 if not matrix else width_mult if grows else 1.0,
            eps=1 / (width_mult * (depth_mult if inside else 1)),
        )
    return found


def _at_base_depth(name: str) -> str:
    """All layers are alike: the name of this one's parameter in the first."""
    head, layers, rest = name.partition("layers.")
    return f"{head}layers.0.{rest.partition('.')[2]}" if layers else name
