"""RMSNorm (Zhang and Sennrich 2019): torch's own, with fewer passes over memory for the gradient on a CPU."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable


class RMSNorm(nn.RMSNorm):
    """RMSNorm over the last axis, with a weight. Values and gradients equal torch's bit for bit."""

    def forward(self, x: Tensor) -> Tensor:
        return self.with_bypass(x)[0]

    def with_bypass(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Normalised x, and x itself for the bypass.

        The gradients of both are added in autograd's order: bypass, product, square.
        """
        if x.device.type != "cpu" or x.dtype != torch.float32:
            return super().forward(x), x
        found: tuple[Tensor, Tensor] = _OnCpu.apply(x, self.weight, self.eps)
        return found


class _OnCpu(torch.autograd.Function):
    """The operations of which torch composes the norm and its gradient on a CPU, mostly in place."""

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
        weight_grad = None
        if ctx.needs_input_grad[1]:
            weight_grad = torch.mul(gradient, x * scale).sum(tuple(range(x.dim() - 1)))
        if not ctx.needs_input_grad[0]:
            return None, weight_grad, None
        # Through the product x * scale, and through scale by way of the mean square.
        x_grad = gradient * weight
        scale_grad = (x_grad * x).sum(-1, keepdim=True)
        square_grad = scale_grad.mul_(-0.5).mul_(scale.pow(3)).div_(x.shape[-1])
        x_grad.mul_(scale)
        if bypass is not None:
            x_grad.add_(bypass)
        return x_grad.add_(x * square_grad.mul_(2.0)), weight_grad, None
