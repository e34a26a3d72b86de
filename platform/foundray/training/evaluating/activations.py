"""What happens inside the layers during an evaluation: how large attention logits become, and which units are never active.

Both are seen by hooks in the forward passes that the evaluation makes anyway, on its first samples. A maximum and an OR do not
depend on an order, so the results are the same for any number of workers.

Attention logits that keep growing announce a loss that diverges (Dehghani et al. 2023, section 3.1; Wortsman et al. 2024). A
unit of a feed-forward layer that is never active has learned nothing, and takes part in no gradient (Lu et al. 2020; counted
over held-out data by Voita et al. 2024).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from foundray.model.backbone import Layers
from foundray.model.model import Batch, Model
from foundray.training.collectives.group import Group
from foundray.training.step.trainer import Trainer

Result = TypeVar("Result")
LossesOf = Callable[[Sequence[tuple[Batch, Tensor]]], list[tuple[Tensor, Tensor]]]
"""The summed loss and count of some samples each, from their hidden states."""
NEGLIGIBLE = 1e-3
"""Magnitude up to which a unit with GELU or SwiGLU counts as inactive. Judgement: activations are of order one where a network
begins, and those functions reach zero only in the limit."""
LOGITS = 2**22
"""Attention logits that are computed at once: 16 MiB."""


@dataclass(frozen=True)
class Activity:
    """Of one layer, over the samples that were watched."""

    attention_logit_max: float
    """Largest attention logit: a scaled product of a query and a key that it may attend to."""
    dead_units: float
    """Share of the feed-forward layer's units that were never active, 0 to 1. What a unit hands on is above 0 with ReLU, and
    beyond `NEGLIGIBLE` in magnitude with GELU and SwiGLU, if it is active."""


class Activations:
    """Watches a model's layers while it computes."""

    def __init__(self, model: Model):
        parts: list[tuple[str, Layers]] = [("", model.model)]
        if model.predictor is not None:
            parts.append(("predictor.", model.predictor))
        self.model = model
        self.layers: dict[str, Any] = {f"{of}layers.{i}": layer for of, part in parts for i, layer in enumerate(part.layers)}
        self.maxima: dict[str, Tensor] = {}
        """Largest attention logit of each layer so far."""
        self.active: dict[str, Tensor] = {}
        """Units of each layer that have been active, [ffn width] bool."""
        self.compiled = any(layer._compiled_call_impl is not None for layer in self.layers.values())

    def encode(self, trainer: Trainer, batch: Batch) -> Tensor | None:
        """What the trainer's own `encode` gives, with the encoder watched."""
        return self._watched(self.model.model, self._valid(batch), partial(trainer.encode, batch))

    def losses_of(self, trainer: Trainer) -> LossesOf:
        """The trainer's own `losses_of`, with the predictor watched, if there is one. A teacher computes without one."""
        if (predictor := self.model.predictor) is None:
            return trainer.losses_of
        return lambda parts: self._watched(predictor, None, lambda: trainer.losses_of(parts))

    def _valid(self, batch: Batch) -> Tensor | None:
        """The positions [B, T] bool in the encoder that are no padding; None for all."""
        if not batch.padded or batch.visible is not None:
            return None
        return F.pad(batch.valid, (1, 0), value=True) if self.model.shape.class_unit else batch.valid

    def found(self, group: Group) -> dict[str, Activity]:
        """By layer, over what all workers have seen."""
        widths = [layer.mlp.down_proj.in_features for layer in self.layers.values()]
        device = next(self.model.parameters()).device
        none = [torch.zeros(width, dtype=torch.bool, device=device) for width in widths]
        mine = [self.active.get(name, empty) for name, empty in zip(self.layers, none, strict=True)]
        active = group.sum(torch.cat(mine).to(torch.int64)).split(widths)
        maxima = group.share({name: float(value) for name, value in self.maxima.items()})
        return {
            name: Activity(_largest([of[name] for of in maxima if name in of]), float((units == 0).double().mean()))
            for name, units in zip(self.layers, active, strict=True)
            if any(name in of for of in maxima)
        }

    def _watched(self, part: Layers, valid: Tensor | None, compute: Callable[[], Result]) -> Result:
        """Compute with hooks on a stack of layers; `valid` [B, T] bool marks the positions that are no padding."""
        names = {layer: name for name, layer in self.layers.items()}
        handles = [handle for layer in part.layers for handle in self._hooks(names[layer], layer, valid)]
        try:
            if not self.compiled:
                return compute()
            with torch.compiler.set_stance("force_eager"):  # compiled code passes hooks by
                compute()
        finally:
            for handle in handles:
                handle.remove()
        return compute()

    def _hooks(self, name: str, layer: Any, valid: Tensor | None) -> list[Any]:
        attention, seen = layer.self_attn, dict[str, Tensor]()

        def projected(which: str) -> Any:
            def keep(module: nn.Module, inputs: Any, output: Tensor) -> None:
                seen[which] = output

            return keep

        def attended(module: nn.Module, inputs: Sequence[Any], output: Tensor) -> None:
            _, rotation, mask, causal = inputs
            q, k = attention.compared(seen.pop("q"), seen.pop("k"), rotation)
            largest = largest_logit(q, k, mask, causal, valid)
            self.maxima[name] = torch.maximum(self.maxima[name], largest) if name in self.maxima else largest

        def handed_on(module: nn.Module, inputs: Sequence[Tensor]) -> None:
            inner = inputs[0]
            now = inner > 0 if layer.mlp.act == "relu" else inner.abs() > NEGLIGIBLE
            if valid is not None:
                now = now & valid[..., None]
            now = now.flatten(0, 1).any(0)
            self.active[name] = self.active[name] | now if name in self.active else now

        return [
            attention.q_proj.register_forward_hook(projected("q")),
            attention.k_proj.register_forward_hook(projected("k")),
            attention.register_forward_hook(attended),
            layer.mlp.down_proj.register_forward_pre_hook(handed_on),
        ]


def largest_logit(q: Tensor, k: Tensor, mask: Tensor | None, causal: bool, valid: Tensor | None) -> Tensor:
    """Largest scaled product of a query and a key, both [B, H, T, head width], that it may attend to.

    `mask` [B, 1, T, T] bool marks such pairs; without it, all are, or the earlier ones if `causal`. `valid` [B, T] bool marks
    the queries that count.
    """
    samples, heads, length, width = q.shape
    if mask is None and causal:
        mask = torch.ones(1, 1, length, length, dtype=torch.bool, device=q.device).tril()
    some = max(1, LOGITS // (heads * length**2)), max(1, LOGITS // length**2)
    largest = torch.full((), -torch.inf, device=q.device)
    for first in range(0, samples, some[0]):
        rows = slice(first, first + some[0])
        allowed = mask if mask is None or len(mask) == 1 else mask[rows]
        if valid is not None:
            asking = valid[rows, None, :, None]
            allowed = asking if allowed is None else allowed & asking
        for head in range(0, heads, some[1]):
            of = slice(head, head + some[1])
            logits = q[rows, of].float() @ k[rows, of].float().mT * width**-0.5
            largest = torch.maximum(largest, (logits if allowed is None else logits.where(allowed, -torch.inf)).max())
    return largest


def _largest(values: Sequence[float]) -> float:
    """The largest, or NaN if one is: the order never counts."""
    return math.nan if any(map(math.isnan, values)) else max(values)
