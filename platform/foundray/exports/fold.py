"""Weights without multipliers: CompleteP's are folded into the matrices that they follow."""

from __future__ import annotations

import torch
from torch import Tensor

from foundray.model.backbone import Layer
from foundray.model.model import Model
from foundray.model.parametrisation import Readout


@torch.no_grad()
def folded(model: Model) -> dict[str, Tensor]:
    """The state dict of the same function in the standard parametrisation.

    A branch's output is multiplied by `branch_scale`, and a head's is divided by the width ratio of its input; both are linear
    in the last matrix (Dey et al. 2025, table 1). The model itself is unchanged.
    """
    state = dict(model.state_dict())
    for name, module in model.named_modules():
        if isinstance(module, Layer):
            for writer in ("self_attn.o_proj", "mlp.down_proj"):
                _multiply(state, f"{name}.{writer}", module.branch_scale)
        elif isinstance(module, Readout):
            _multiply(state, name, 1 / module.width_mult)
    return state


def _multiply(state: dict[str, Tensor], name: str, factor: float) -> None:
    for part in ("weight", "bias"):
        if f"{name}.{part}" in state:
            state[f"{name}.{part}"] = state[f"{name}.{part}"] * factor
