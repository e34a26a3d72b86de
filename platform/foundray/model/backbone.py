"""The backbone: a pre-norm transformer whose parameters are named as in Hugging Face's Llama.

The default is Llama: RMSNorm, SwiGLU, rotary positions, no biases. The fields of `model:` select the other stock models.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from foundray.contract import UnitShape
from foundray.model.recomputing import Recompute, computed
from foundray.model.rms_norm import RMSNorm
from foundray.model.rotation import Tables, rotary, rotated, tables
from foundray.spec import ModelConfig

NORM_EPS = 1e-6
Stage = Callable[[Tensor], Tensor]
"""A part of a forward pass: computes hidden states from those of the part before. The first one ignores what it gets."""


def run(stages: Iterable[Stage], hidden: Tensor) -> Tensor:
    """Compute stages one after another."""
    for stage in stages:
        hidden = stage(hidden)
    return hidden


class Attention(nn.Module):
    def __init__(self, shape: ModelConfig):
        super().__init__()
        self.heads, self.rotary = shape.heads, shape.rope_theta is not None
        self.q_proj, self.k_proj, self.v_proj, self.o_proj = (
            nn.Linear(shape.width, shape.width, bias=shape.bias) for _ in range(4)
        )

    def forward(self, x: Tensor, rotation: Tables, mask: Tensor | None, causal: bool) -> Tensor:
        q, k, v = self.q_proj(x), self.k_proj(x), self.v_proj(x).unflatten(-1, (self.heads, -1)).transpose(1, 2)
        q, k = self.compared(q, k, rotation)
        y = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=causal and mask is None)
        return self.o_proj(y.transpose(1, 2).flatten(2))

    def compared(self, q: Tensor, k: Tensor, rotation: Tables) -> tuple[Tensor, Tensor]:
        """Queries and keys [B, T, D] as attention compares them, [B, H, T, head width]."""
        if self.rotary:
            return rotated(q, k, self.heads, rotation)
        q, k = (each.unflatten(-1, (self.heads, -1)).transpose(1, 2) for each in (q, k))
        return q, k


class FeedForward(nn.Module):
    """SwiGLU (Shazeer 2020), or a plain feed-forward layer with GELU or ReLU."""

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


def _norm_and_bypass(norm: nn.Module, x: Tensor) -> tuple[Tensor, Tensor]:
    """Normalised x for a branch, and x for its bypass."""
    return norm.with_bypass(x) if isinstance(norm, RMSNorm) else (norm(x), x)


class Layer(nn.Module):
    def __init__(self, shape: ModelConfig):
        super().__init__()
        self.input_layernorm = normalisation(shape)
        self.self_attn = Attention(shape)
        self.post_attention_layernorm = normalisation(shape)
        self.mlp = FeedForward(shape)
        self.branch_scale = 1 / shape.depth_mult
        """Factor on a branch's output before it is added to the residual stream."""

    def forward(self, x: Tensor, rotation: Tables, mask: Tensor | None, causal: bool) -> Tensor:
        normed, x = _norm_and_bypass(self.input_layernorm, x)
        x = torch.add(x, self.self_attn(normed, rotation, mask, causal), alpha=self.branch_scale)
        normed, x = _norm_and_bypass(self.post_attention_layernorm, x)
        return torch.add(x, self.mlp(normed), alpha=self.branch_scale)


def plane_positions(grid: tuple[int, int], width: int) -> Tensor:
    """Fixed 2-D positions, [rows * columns, width]: sines and cosines of the column, then of the row (He et al. 2022)."""
    frequencies = 10_000.0 ** (-torch.arange(width // 4, dtype=torch.float64) / (width // 4))
    rows, columns = torch.meshgrid(*(torch.arange(side, dtype=torch.float64) for side in grid), indexing="ij")
    angles = [torch.outer(axis.flatten(), frequencies) for axis in (columns, rows)]
    waves = torch.cat([wave(angle) for angle in angles for wave in (torch.sin, torch.cos)], 1)
    return F.pad(waves, (0, width - waves.shape[1])).float()


class Layers(nn.Module):
    """Layers, final norm, and positions: maps embedded units [B, T, D] to hidden states [B, T, D]."""

    cos: Tensor
    sin: Tensor
    positions: Tensor | None

    def __init__(self, shape: ModelConfig, grid: tuple[int, int] | None):
        super().__init__()
        self.layers = nn.ModuleList(Layer(shape) for _ in range(shape.depth))
        self.norm = normalisation(shape)
        self.heads = shape.heads
        self.recompute: Recompute = "none"
        """What each layer computes again in the backward pass."""
        self.prefix = int(shape.class_unit)
        """Units before the sample's: 1 with a class unit, which comes first; T and S below are then one more."""
        self.grid, self.size = grid, (shape.context, shape.width, shape.rope_theta or 1.0)
        self.set_tables()

    def set_tables(self, device: torch.device | None = None) -> None:
        """Compute the fixed positions, on a device; a model that was made without memory has none that can be used."""
        (context, width, theta), where = self.size, device or torch.get_default_device()
        with torch.device(where):
            angles = rotary(context + self.prefix, width // self.heads, theta)
            # The class unit itself has no position.
            positions = F.pad(plane_positions(self.grid, width), (0, 0, self.prefix, 0)) if self.grid else None
        for name, table in (("cos", angles[0]), ("sin", angles[1]), ("positions", positions)):
            self.register_buffer(name, table, persistent=False)

    def stages(
        self,
        begin: Stage,
        mask: Tensor | None,
        causal: bool,
        visible: Tensor | None = None,
        states: list[Tensor] | None = None,
    ) -> list[Stage]:
        """The parts of a forward pass, in order: `begin` and positions, then each layer, the last one with the final norm.

        With `visible` [B, S], only these units are used: h and the hidden states become [B, S, D]. The class unit is always
        used and is not in `visible`. Each layer's output is appended to `states`, the last one after the final norm.
        """
        rotation: Tables

        def enter(before: Tensor) -> Tensor:
            nonlocal rotation
            h, rotation = self._placed(begin(before), visible)
            return h

        def layer_of(index: int) -> Stage:
            layer, last = self.layers[index], index + 1 == len(self.layers)

            def compute(h: Tensor) -> Tensor:
                h = computed(layer, self.recompute, h, rotation, mask, causal)
                h = self.norm(h) if last else h
                if states is not None:
                    states.append(h)
                return h

            return compute

        return [enter, *map(layer_of, range(len(self.layers)))]

    def forward(
        self, h: Tensor, mask: Tensor | None, causal: bool, visible: Tensor | None = None, states: list[Tensor] | None = None
    ) -> Tensor:
        """Hidden states of embedded units [B, T, D]; see `stages`."""
        return run(self.stages(lambda embedded: embedded, mask, causal, visible, states), h)

    def _placed(self, h: Tensor, visible: Tensor | None) -> tuple[Tensor, Tables]:
        """Units with their positions, and the rotations of these positions; positions first, as `visible` selects both."""
        cos, sin = (table[: h.shape[1]].to(h.dtype) for table in (self.cos, self.sin))
        if self.positions is not None:
            h = h + self.positions.to(h.dtype)
        if visible is not None:
            if self.prefix:
                visible = F.pad(visible + 1, (1, 0))
            h = h.gather(1, visible[..., None].expand(-1, -1, h.shape[-1]))
            cos, sin = cos[visible], sin[visible]
        return h, tables(cos, sin, self.heads, len(h))


class KindStem(nn.Module):
    """Stem of units of several kinds: one matrix per kind, one vector per time, then one norm (Chen et al. 2021)."""

    def __init__(self, units: UnitShape, width: int):
        super().__init__()
        self.of = nn.ModuleDict({kind.name: nn.Linear(kind.width, width) for kind in units.kinds})
        self.time = nn.Embedding(units.times, width) if units.times else None
        self.norm = nn.LayerNorm(width, NORM_EPS)

    def forward(self, x: Tensor, apply_mask: Callable[[Tensor], Tensor]) -> Tensor:
        """Embed [B, T, K], T a multiple of the number of kinds, as [B, T, D].

        `apply_mask` replaces masked units by the mask vector. They keep their times.
        """
        # Kinds alternate along T, so every n-th unit is of the same kind.
        stems = list(self.of.values())
        embedded = torch.stack([stem(x[:, kind :: len(stems), : stem.in_features]) for kind, stem in enumerate(stems)], 2)
        h = apply_mask(embedded.flatten(1, 2))
        return self.norm(h if self.time is None else h + self.time(x[..., -1].long()))


class Backbone(Layers):
    """Stem and layers: units [B, T] or [B, T, K] to hidden states [B, T, D], or [B, 1 + T, D] with a class unit.

    With rotary positions the class unit is at 0, where nothing is rotated, and the units start at 1. So no unit shares its
    position, and distances between units are the same with and without it.
    """

    def __init__(self, shape: ModelConfig, units: UnitShape, masks: bool):
        super().__init__(shape, units.grid)
        if units.classes:
            self.embed_tokens = nn.Embedding(units.classes, shape.width)
        else:
            stem = KindStem(units, shape.width) if units.kinds else nn.Linear(units.width, shape.width)
            self.embed_values: nn.Module = stem
        if masks:
            self.mask = nn.Parameter(torch.zeros(shape.width))
            """[D]: replaces masked units."""
        if shape.class_unit:
            self.class_unit = nn.Parameter(torch.zeros(shape.width))
            """[D]: comes before a sample's units (Devlin et al. 2019; Dosovitskiy et al. 2021)."""
        self.reads_ids = bool(units.classes)

    def embed(self, x: Tensor, masked: Tensor | None) -> Tensor:
        """Embed units [B, T] or [B, T, K] as [B, T, D], or [B, 1 + T, D] with a class unit; `masked` is [B, T] bool."""

        def apply_mask(h: Tensor) -> Tensor:
            return h if masked is None else torch.where(masked[..., None], self.mask.to(h.dtype), h)

        if self.reads_ids:
            h = apply_mask(self.embed_tokens(x))
        elif isinstance(self.embed_values, KindStem):
            h = self.embed_values(x, apply_mask)
        else:
            h = apply_mask(self.embed_values(x).float())  # the residual stream stays in fp32, even if products are in bf16
        return torch.cat([self.class_unit.to(h.dtype).expand(len(h), 1, -1), h], 1) if self.prefix else h


class Predictor(Layers):
    """Predicts states for all T units, from the hidden states [B, S, D] of the visible ones (He et al. 2022)."""

    def __init__(self, shape: ModelConfig, grid: tuple[int, int] | None, width: int):
        super().__init__(shape, grid)
        self.into = nn.Linear(width, shape.width)
        self.mask = nn.Parameter(torch.zeros(shape.width))
        """[D]: stands for units that are not visible."""

    def spread(self, hidden: Tensor, visible: Tensor, length: int) -> Tensor:
        """Spread to [B, T, D]: visible units at their positions, the mask vector elsewhere, a class unit first."""
        class_state, states = self.into(hidden).float().tensor_split([self.prefix], 1)
        whole = self.mask.to(states.dtype).expand(len(visible), length, -1)
        return torch.cat([class_state, whole.scatter(1, visible[..., None].expand(-1, -1, states.shape[-1]), states)], 1)
