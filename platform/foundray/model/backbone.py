"""The backbone: a pre-norm transformer whose parameters are named as in Hugging Face's Llama.

By default it is Llama's: RMSNorm, SwiGLU, rotary positions, no biases. The flags of `model:` reach the other stock models.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from foundray.contract import UnitShape
from foundray.model.rms_norm import RMSNorm
from foundray.model.rotation import Tables, rotary, rotated, tables
from foundray.spec import ModelConfig

NORM_EPS = 1e-6


class Attention(nn.Module):
    def __init__(self, shape: ModelConfig):
        super().__init__()
        self.heads, self.rotary = shape.heads, shape.rope_theta is not None
        self.q_proj, self.k_proj, self.v_proj, self.o_proj = (
            nn.Linear(shape.width, shape.width, bias=shape.bias) for _ in range(4)
        )

    def forward(self, x: Tensor, turns: Tables, mask: Tensor | None, causal: bool) -> Tensor:
        q, k, v = self.q_proj(x), self.k_proj(x), self.v_proj(x).unflatten(-1, (self.heads, -1)).transpose(1, 2)
        if self.rotary:
            q, k = rotated(q, k, self.heads, turns)
        else:
            q, k = (each.unflatten(-1, (self.heads, -1)).transpose(1, 2) for each in (q, k))
        y = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=causal and mask is None)
        return self.o_proj(y.transpose(1, 2).flatten(2))


class FeedForward(nn.Module):
    """SwiGLU (Shazeer 2020), or the plain one with GELU or ReLU."""

    def __init__(self, shape: ModelConfig):
        super().__init__()
        self.act = shape.act
        if self.act == "swiglu":
            self.gate_proj = nn.Linear(shape.width, shape.hidden_width, bias=shape.bias)
        self.up_proj = nn.Linear(shape.width, shape.hidden_width, bias=shape.bias)
        self.down_proj = nn.Linear(shape.hidden_width, shape.width, bias=shape.bias)

    def forward(self, x: Tensor) -> Tensor:
        up = self.up_proj(x)
        match self.act:
            case "swiglu":
                inner = F.silu(self.gate_proj(x)) * up
            case "gelu":
                inner = F.gelu(up)
            case _:
                inner = F.relu(up)
        return self.down_proj(inner)


def normalisation(shape: ModelConfig) -> nn.Module:
    return (RMSNorm if shape.norm == "rms" else nn.LayerNorm)(shape.width, NORM_EPS)


def _beside(norm: nn.Module, x: Tensor) -> tuple[Tensor, Tensor]:
    """x for a branch, and for what bypasses it."""
    return norm.beside(x) if isinstance(norm, RMSNorm) else (norm(x), x)


class Layer(nn.Module):
    def __init__(self, shape: ModelConfig):
        super().__init__()
        self.input_layernorm = normalisation(shape)
        self.self_attn = Attention(shape)
        self.post_attention_layernorm = normalisation(shape)
        self.mlp = FeedForward(shape)
        self.share = 1 / shape.depth_mult
        """Of what a branch gives, that is added."""

    def forward(self, x: Tensor, turns: Tables, mask: Tensor | None, causal: bool) -> Tensor:
        normed, x = _beside(self.input_layernorm, x)
        x = torch.add(x, self.self_attn(normed, turns, mask, causal), alpha=self.share)
        normed, x = _beside(self.post_attention_layernorm, x)
        return torch.add(x, self.mlp(normed), alpha=self.share)


def places_in_plane(grid: tuple[int, int], width: int) -> Tensor:
    """[rows * columns, width]: sines and cosines of a unit's column, then of its row (He et al. 2022; fixed)."""
    frequencies = 10_000.0 ** (-torch.arange(width // 4, dtype=torch.float64) / (width // 4))
    rows, columns = torch.meshgrid(*(torch.arange(side, dtype=torch.float64) for side in grid), indexing="ij")
    angles = [torch.outer(where.flatten(), frequencies) for where in (columns, rows)]
    waves = torch.cat([wave(angle) for angle in angles for wave in (torch.sin, torch.cos)], 1)
    return F.pad(waves, (0, width - waves.shape[1])).float()


class Layers(nn.Module):
    """Layers and final norm, with what tells them where a unit is: embedded units [B, T, D] to hidden states [B, T, D]."""

    cos: Tensor
    sin: Tensor
    places: Tensor | None

    def __init__(self, shape: ModelConfig, grid: tuple[int, int] | None):
        super().__init__()
        self.layers = nn.ModuleList(Layer(shape) for _ in range(shape.depth))
        self.norm = normalisation(shape)
        self.heads = shape.heads
        self.recompute = False
        """Whether layers forget their activations and compute them again in the backward pass (Chen et al. 2016)."""
        self.ahead = int(shape.class_unit)
        """Units that stand before a sample's: then T and S below are one more, and the class unit is the first."""
        angles = rotary(shape.context + self.ahead, shape.width // shape.heads, shape.rope_theta or 1.0)
        for name, table in zip(("cos", "sin"), angles, strict=True):
            self.register_buffer(name, table, persistent=False)
        places = F.pad(places_in_plane(grid, shape.width), (0, 0, self.ahead, 0)) if grid else None  # it has none itself
        self.register_buffer("places", places, persistent=False)

    def forward(
        self, h: Tensor, mask: Tensor | None, causal: bool, keep: Tensor | None = None, states: list[Tensor] | None = None
    ) -> Tensor:
        """`keep` [B, S] are the only units that are looked at: then h and the hidden states are [B, S, D]. The class unit
        always is, and it is no part of `keep`.

        What each layer gives, the last one after the final norm, is added to `states`.
        """
        cos, sin = (table[: h.shape[1]].to(h.dtype) for table in (self.cos, self.sin))
        if self.places is not None:
            h = h + self.places.to(h.dtype)
        if keep is not None:
            if self.ahead:
                keep = F.pad(keep + 1, (1, 0))
            h = h.gather(1, keep[..., None].expand(-1, -1, h.shape[-1]))
            cos, sin = cos[keep], sin[keep]
        turns = tables(cos, sin, self.heads, len(h))
        for layer in self.layers:
            if self.recompute and torch.is_grad_enabled():
                h = checkpoint(layer, h, turns, mask, causal, use_reentrant=False)
            else:
                h = layer(h, turns, mask, causal)
            if states is not None:
                states.append(h)
        h = self.norm(h)
        if states is not None:
            states[-1] = h
        return h


class Turns(nn.Module):
    """The stem of units of several kinds: a matrix for each, a vector for each time, then one norm (Chen et al. 2021)."""

    def __init__(self, units: UnitShape, width: int):
        super().__init__()
        self.of = nn.ModuleDict({kind.name: nn.Linear(kind.width, width) for kind in units.kinds})
        self.time = nn.Embedding(units.times, width) if units.times else None
        self.norm = nn.LayerNorm(width, NORM_EPS)

    def forward(self, x: Tensor, shown: Callable[[Tensor], Tensor]) -> Tensor:
        """[B, T, K], T a multiple of the number of kinds, to [B, T, D]. `shown` puts the mask vector in the place of what is
        hidden, whose time is told all the same.
        """
        of = list(self.of.values())
        embedded = torch.stack([stem(x[:, turn :: len(of), : stem.in_features]) for turn, stem in enumerate(of)], 2)
        h = shown(embedded.flatten(1, 2))
        return self.norm(h if self.time is None else h + self.time(x[..., -1].long()))


class Backbone(Layers):
    """Stem and layers: units [B, T], or [B, T, K], to hidden states [B, T, D]; [B, 1 + T, D] with a class unit before them.

    With rotary positions the class unit is at 0, where nothing is rotated, and the units are from 1 on, so that no unit is
    where it is, and how far units are from each other is the same with it and without.
    """

    def __init__(self, shape: ModelConfig, units: UnitShape, hides: bool):
        super().__init__(shape, units.grid)
        if units.classes:
            self.embed_tokens = nn.Embedding(units.classes, shape.width)
        else:
            of_values = Turns(units, shape.width) if units.kinds else nn.Linear(units.width, shape.width)
            self.embed_values: nn.Module = of_values
        if hides:
            self.mask = nn.Parameter(torch.zeros(shape.width))
            """[D]: stands in the place of hidden units."""
        if shape.class_unit:
            self.class_unit = nn.Parameter(torch.zeros(shape.width))
            """[D]: stands before a sample's units (Devlin et al. 2019; Dosovitskiy et al. 2021)."""
        self.reads_ids = bool(units.classes)

    def embed(self, x: Tensor, hidden: Tensor | None) -> Tensor:
        """[B, T, D], or [B, 1 + T, D] with a class unit, from units [B, T] or [B, T, K] and where they are hidden [B, T]."""

        def shown(h: Tensor) -> Tensor:
            return h if hidden is None else torch.where(hidden[..., None], self.mask.to(h.dtype), h)

        if self.reads_ids:
            h = shown(self.embed_tokens(x))
        elif isinstance(self.embed_values, Turns):
            h = self.embed_values(x, shown)
        else:
            h = shown(self.embed_values(x).float())  # what layers add to stays in fp32, also where products are in bf16
        return torch.cat([self.class_unit.to(h.dtype).expand(len(h), 1, -1), h], 1) if self.ahead else h


class Predictor(Layers):
    """Answers for all T units, from the hidden states [B, S, D] of those that were kept (He et al. 2022)."""

    def __init__(self, shape: ModelConfig, grid: tuple[int, int] | None, width: int):
        super().__init__(shape, grid)
        self.into = nn.Linear(width, shape.width)
        self.mask = nn.Parameter(torch.zeros(shape.width))
        """[D]: stands in the place of units that were not kept."""

    def spread(self, hidden: Tensor, keep: Tensor, length: int) -> Tensor:
        """[B, T, D]: what was kept in its places, the mask vector in the others; the class unit's state stays the first."""
        ahead, seen = self.into(hidden).float().tensor_split([self.ahead], 1)
        whole = self.mask.to(seen.dtype).expand(len(keep), length, -1)
        return torch.cat([ahead, whole.scatter(1, keep[..., None].expand(-1, -1, seen.shape[-1]), seen)], 1)
