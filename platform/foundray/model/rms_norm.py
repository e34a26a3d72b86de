"""RMSNorm (Zhang and Sennrich 2019): torch's own, whose gradient takes fewer passes over memory on a CPU."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable


class RMSNorm(nn.RMSNorm):
    """Of the last axis, with a weight. Values and gradients have the bits of torch's own."""

    def forward(self, x: Tensor) -> Tensor:
        return self.beside(x)[0]

    def beside(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The norm of x, and x itself for what bypasses it.

        Gradients of both come back as one sum, in the order in which autograd adds them: bypass, product, square.
        """
        if x.device.type != "cpu" or x.dtype != torch.float32:
            return super().forward(x), x
        found: tuple[Tensor, Tensor] = _OnCpu.apply(x, self.weight, self.eps)
        return found


class _OnCpu(torch.autograd.Function):
    """On a CPU torch composes the norm: these are that composition's operations and its gradient's, most of them in place."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, eps: float) -> tuple[Tensor, Tensor]:
        scale = (x * x).mean(-1, keepdim=True).add_(eps).rsqrt_()
        ctx.save_for_backward(x, weight, scale)
        ctx.set_materialize_grads(False)
        return (x * scale).mul_(weight), x

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor | None, bypass: Tensor | None) -> tuple[Tensor | None, ...]:
        x, weight, scale = ctx.saved_tensors
        if gradient is None:
            return bypass, None, None
        of_weight = None
        if ctx.needs_input_grad[1]:
            of_weight = torch.mul(gradient, x * scale).sum(tuple(range(x.dim() - 1)))
        if not ctx.needs_input_grad[0]:
            return None, of_weight, None
        of_x = gradient * weight
        of_scale = (of_x * x).sum(-1, keepdim=True)
        of_square = of_scale.mul_(-0.5).mul_(scale.pow(3)).div_(x.shape[-1])
        of_x.mul_(scale)
        if bypass is not None:
            of_x.add_(bypass)
        return of_x.add_(x * of_square.mul_(2.0)), of_weight, None
