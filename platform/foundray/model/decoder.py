"""The backbone: a pre-norm transformer (RMSNorm, rotary positions, SwiGLU) whose parameters are named as in Llama.

A state dict of `Model` with a `next_token` objective loads, unrenamed, into Hugging Face's `LlamaForCausalLM`.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from foundray.contract import Plan
from foundray.spec import Model as Shape

NORM_EPS = 1e-6


def rotary(context: int, head_width: int, theta: float) -> tuple[Tensor, Tensor]:
    """cos and sin of every position's angles, each [T, head width] (Su et al. 2021; halves, as Llama lays them out)."""
    frequencies = theta ** (-torch.arange(0, head_width, 2, dtype=torch.float32) / head_width)
    angles = torch.outer(torch.arange(context, dtype=torch.float32), frequencies).repeat(1, 2)
    return angles.cos(), angles.sin()


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """x: [B, H, T, head width]; cos, sin: [T, head width]."""
    first, second = x.chunk(2, -1)
    return x * cos + torch.cat([-second, first], -1) * sin


class Attention(nn.Module):
    def __init__(self, shape: Shape):
        super().__init__()
        self.heads = shape.heads
        self.q_proj, self.k_proj, self.v_proj, self.o_proj = (nn.Linear(shape.width, shape.width, bias=False) for _ in range(4))

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor, mask: Tensor | None, causal: bool) -> Tensor:
        q, k, v = (
            project(x).unflatten(-1, (self.heads, -1)).transpose(1, 2) for project in (self.q_proj, self.k_proj, self.v_proj)
        )
        y = F.scaled_dot_product_attention(
            rotate(q, cos, sin), rotate(k, cos, sin), v, attn_mask=mask, is_causal=causal and mask is None
        )
        return self.o_proj(y.transpose(1, 2).flatten(2))


class FeedForward(nn.Module):
    """SwiGLU (Shazeer 2020)."""

    def __init__(self, shape: Shape):
        super().__init__()
        self.gate_proj = nn.Linear(shape.width, shape.hidden_width, bias=False)
        self.up_proj = nn.Linear(shape.width, shape.hidden_width, bias=False)
        self.down_proj = nn.Linear(shape.hidden_width, shape.width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))


class Layer(nn.Module):
    def __init__(self, shape: Shape):
        super().__init__()
        self.input_layernorm = nn.RMSNorm(shape.width, NORM_EPS)
        self.self_attn = Attention(shape)
        self.post_attention_layernorm = nn.RMSNorm(shape.width, NORM_EPS)
        self.mlp = FeedForward(shape)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor, mask: Tensor | None, causal: bool) -> Tensor:
        x = x + self.self_attn(self.input_layernorm(x), cos, sin, mask, causal)
        return x + self.mlp(self.post_attention_layernorm(x))


class Backbone(nn.Module):
    """Token stem, layers and final norm: ids [B, T] to hidden states [B, T, D]."""

    cos: Tensor
    sin: Tensor

    def __init__(self, shape: Shape, vocabulary: int):
        super().__init__()
        self.embed_tokens = nn.Embedding(vocabulary, shape.width)
        self.layers = nn.ModuleList(Layer(shape) for _ in range(shape.depth))
        self.norm = nn.RMSNorm(shape.width, NORM_EPS)
        self.recompute = False
        """Whether layers forget their activations and compute them again in the backward pass (Chen et al. 2016)."""
        for name, table in zip(
            ("cos", "sin"), rotary(shape.context, shape.width // shape.heads, shape.rope_theta), strict=True
        ):
            self.register_buffer(name, table, persistent=False)

    def forward(self, ids: Tensor, mask: Tensor | None, causal: bool) -> Tensor:
        x = self.embed_tokens(ids)
        cos, sin = (table[: ids.shape[1]].to(x.dtype) for table in (self.cos, self.sin))
        for layer in self.layers:
            if self.recompute and torch.is_grad_enabled():
                x = checkpoint(layer, x, cos, sin, mask, causal, use_reentrant=False)
            else:
                x = layer(x, cos, sin, mask, causal)
        return self.norm(x)


class Model(nn.Module):
    """Backbone and heads; `forward` answers every ask of a plan with [B, T, classes]."""

    def __init__(self, shape: Shape, vocabulary: int, heads: dict[str, int]):
        super().__init__()
        self.model = Backbone(shape, vocabulary)
        for name, classes in heads.items():
            self.add_module(name, nn.Linear(shape.width, classes, bias=False))

    def forward(self, plan: Plan) -> list[Tensor]:
        hidden = self.model(plan.units.x, document_mask(plan) if plan.units.mixed else None, plan.causal)
        return [self.get_submodule(ask.head)(hidden) for ask in plan.asks]


def document_mask(plan: Plan) -> Tensor:
    """[B, 1, T, T] bool: which positions (last axis) a position may attend to: its own document's, and not later ones."""
    document = plan.units.document
    mask = document[:, None, :, None] == document[:, None, None, :]
    return mask.tril() if plan.causal else mask


def initialise(model: Model, seed: int) -> None:
    """Draw the weights, from one generator in name order, on the CPU.

    Embeddings have unit variance and matrices 1/fan-in, so that every layer sees and gives values of order one; those
    that write to the residual stream are smaller by the root of their number (Radford et al. 2019); heads start at zero.
    """
    generator = torch.Generator().manual_seed(seed)
    writers = sum(name.endswith(("o_proj.weight", "down_proj.weight")) for name, _ in model.named_parameters())
    for name, parameter in sorted(model.named_parameters()):
        if parameter.dim() < 2:
            nn.init.ones_(parameter)
        elif not name.startswith("model."):
            nn.init.zeros_(parameter)
        else:
            scale = 1.0 if name.endswith("embed_tokens.weight") else parameter.shape[1] ** -0.5
            if name.endswith(("o_proj.weight", "down_proj.weight")):
                scale /= writers**0.5
            with torch.no_grad():
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * scale)
