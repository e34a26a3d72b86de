"""CompleteP: transfers hyperparameters from a small model to a wider and deeper one (Dey et al. 2025; Yang et al. 2022).

For m times the base's width and mL times its depth: a matrix between two widths has its learning rate (Adam) divided by m and
its decay multiplied by m; a branch's output is divided by mL before it is added; a head's output is divided by m; epsilon
shrinks as gradients do. Embeddings, stems, vectors and heads keep their learning rate. A model of the base's size is the
standard one. Attention heads keep their size, so their logits need no scale of their own.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor, nn
from torch.nn import functional as F


@dataclass(frozen=True, order=True)
class Scaling:
    """Factors on a parameter's hyperparameters."""

    lr: float = 1.0
    weight_decay: float = 1.0
    eps: float = 1.0


class Readout(nn.Linear):
    """A head's matrix, [outputs, D], whose outputs are divided by the ratio of the width to the base's."""

    def __init__(self, width: int, outputs: int, width_mult: float):
        super().__init__(width, outputs, bias=False)
        self.width_mult = width_mult

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x if self.width_mult == 1 else x / self.width_mult, self.weight)


def scalings(model: nn.Module, base: nn.Module | None, width_mult: float, depth_mult: float) -> Mapping[str, Scaling]:
    """Scaling of each parameter, by name. `base` is the same model at the base's width and depth; None gives the standard ones.

    Vectors do not decay. A matrix is between two widths if both its sides differ from the base's.
    """
    shapes = {name: parameter.shape for name, parameter in (base or model).named_parameters()}
    found = {}
    for name, parameter in model.named_parameters():
        matrix = parameter.dim() >= 2
        inside = name.startswith("model.layers.")  # inside a branch, where gradients are smaller by its factor
        base_shape = shapes[_at_base_depth(name) if base else name]
        grows = matrix and all(size != base_size for size, base_size in zip(parameter.shape, base_shape, strict=True))
        found[name] = Scaling(
            lr=1 / width_mult if grows else 1.0,
            weight_decay=0.0 if not matrix else width_mult if grows else 1.0,
            eps=1 / (width_mult * (depth_mult if inside else 1)),
        )
    return found


def _at_base_depth(name: str) -> str:
    """Name of the same parameter in the first layer, since all layers are alike."""
    head, layers, rest = name.partition("layers.")
    return f"{head}layers.0.{rest.partition('.')[2]}" if layers else name
