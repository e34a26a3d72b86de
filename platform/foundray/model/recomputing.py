"""What a layer keeps of a forward pass, and what it computes again in the backward pass.

Either way the same operations see the same values, so the bits do not depend on it.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import CheckpointPolicy, checkpoint, create_selective_checkpoint_contexts

Recompute = Literal["none", "selective", "full"]
"""What is computed again: nothing; all but the outputs of matrix products and of attention; or all (Chen et al. 2016)."""
_aten = torch.ops.aten
PRODUCTS = {_aten.mm.default, _aten.addmm.default}
"""A layer's matrix products. Not `bmm`: where attention has no kernel of its own, its products are as large as units by units,
and cheap (Korthikanti et al. 2022, section 5)."""
ATTENTION = {
    _aten._scaled_dot_product_flash_attention_for_cpu.default,
    _aten._scaled_dot_product_flash_attention.default,
    _aten._scaled_dot_product_efficient_attention.default,
    _aten._scaled_dot_product_cudnn_attention.default,
}
"""Attention's kernels. None writes a matrix of units by units."""


def computed(layer: nn.Module, recompute: Recompute, *inputs: Any) -> Tensor:
    """What a layer makes of its inputs; without gradients, nothing is kept in any case."""
    if recompute == "none" or not torch.is_grad_enabled():
        output: Tensor = layer(*inputs)
    elif recompute == "full":
        output = checkpoint(layer, *inputs, use_reentrant=False)
    else:
        products = sum(isinstance(part, nn.Linear) for part in layer.modules())
        output = checkpoint(layer, *inputs, use_reentrant=False, context_fn=partial(_contexts, products))
    return output


def _contexts(products: int) -> tuple[AbstractContextManager[Any], AbstractContextManager[Any]]:
    """Contexts of the forward pass and of its repetition, for one pass of a layer with this number of products."""
    return create_selective_checkpoint_contexts(_policy(products))


def _policy(products: int) -> Callable[..., CheckpointPolicy]:
    """What is kept, operation by operation. The last product only joins the residual stream: no gradient needs its output."""
    seen = {False: 0, True: 0}  # in the forward pass, and in its repetition, where some versions of torch ask again

    def policy(context: Any, operation: Any, *arguments: Any, **options: Any) -> CheckpointPolicy:
        if operation in PRODUCTS:
            seen[context.is_recompute] += 1
        keep = operation in ATTENTION or (operation in PRODUCTS and seen[context.is_recompute] < products)
        return CheckpointPolicy.MUST_SAVE if keep else CheckpointPolicy.PREFER_RECOMPUTE

    return policy
