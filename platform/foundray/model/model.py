"""The model of a run: stem, backbone and heads, composed from the spec's shape and what the objective asks for.

A state dict of a `next_token` model loads, unrenamed, into Hugging Face's `LlamaForCausalLM`, that of a `masked_token`
model, but for its mask vector, into `EuroBertForMaskedLM`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import pairwise

import torch
from safetensors import torch as safetensors
from torch import Tensor, nn
from torch.nn import functional as F

from foundray.contract import WIDTH, Objective, UnitShape
from foundray.host.devices import traits
from foundray.model.backbone import Backbone, Predictor
from foundray.model.parametrisation import Readout, scalings
from foundray.spec import ModelConfig


@dataclass(frozen=True)
class Batch:
    """A micro-batch of B samples of T units; see `foundray.data.stream.batch`."""

    x: Tensor
    """[B, T] int64, or [B, T, K] float32; padding is 0."""
    valid: Tensor
    """[B, T] bool: a unit, not padding."""
    document: Tensor | None
    """[B, T] int64, where a sample holds more than one."""
    hidden: Tensor | None
    """[B, T] bool, where the objective hides units."""
    keep: Tensor | None
    """[B, S] int64, where the objective drops the other units."""
    asks: dict[str, tuple[Tensor | None, Tensor]]
    """By head: target [B, T] int64, or [B, T, outputs] float32, or None where a teacher tells; and where it is asked [B, T]
    bool."""
    padded: bool

    @staticmethod
    def load(payload: bytes, device: torch.device) -> Batch:
        """From the bytes that a data worker packed."""
        arrays = safetensors.load(payload)
        if not traits(device).in_main_memory:
            arrays = {name: t.pin_memory().to(device, non_blocking=True) for name, t in arrays.items()}
        arrays = {name: t.long() if t.dtype == torch.int32 else t for name, t in arrays.items()}
        x, padded = arrays["x"], "valid" in arrays
        valid = arrays["valid"] if padded else torch.ones(x.shape[:2], dtype=torch.bool, device=device)
        heads = dict.fromkeys(name.rpartition(".")[0] for name in arrays if "." in name)
        asks = {head: (arrays.get(f"{head}.target"), arrays.get(f"{head}.where", valid)) for head in heads}
        return Batch(x, valid, arrays.get("document"), arrays.get("hidden"), arrays.get("keep"), asks, padded)


class Model(nn.Module):
    """`forward` gives every asked head's answers, [B, T, outputs], or [B, 1, outputs] where rows are coupled."""

    def __init__(self, shape: ModelConfig, objective: Objective, units: UnitShape):
        """`units` are the data's; the objective may have ids of its own after theirs."""
        super().__init__()
        self.shape, self.causal, self.couples = shape, objective.causal, objective.couples
        data = units
        if units.classes:
            units = replace(units, classes=units.classes + objective.extra_ids)
        self.model = Backbone(shape, units, objective.hides)
        self.predictor = Predictor(shape.of_predictor, units.grid, shape.width) if objective.predicts else None
        width = shape.of_predictor.width if self.predictor else shape.width
        self.heads = objective.heads(units)
        for name, outputs in self.heads.items():
            self.add_module(name, _head(width, outputs if isinstance(outputs, tuple) else (outputs,), shape))
        base = None
        if shape.base:
            with torch.device("meta"):
                base = Model(shape.base, objective, data)
        self.scalings = scalings(self, base, shape.width_mult, shape.depth_mult)
        """By what the optimizer's hyperparameters are multiplied, of each parameter."""

    def forward(self, batch: Batch, states: list[Tensor] | None = None) -> dict[str, Tensor]:
        return self.answer(batch, self.encode(batch, states))

    def answer(self, batch: Batch, hidden: Tensor) -> dict[str, Tensor]:
        """The heads' answers, given the encoder's hidden states."""
        if self.predictor is not None and batch.keep is not None:
            hidden = self.predictor(self.predictor.spread(hidden, batch.keep, batch.x.shape[1]), None, False)
        hidden = self.of_units(hidden)
        if self.couples:
            hidden = pooled(batch, hidden)[:, None]
        return {head: self.get_submodule(head)(hidden) for head in batch.asks}

    def encode(self, batch: Batch, states: list[Tensor] | None = None) -> Tensor:
        """[B, T, D] hidden states; [B, S, D] where only some units are kept; with a class unit, its own before them. Those of
        every layer are added to `states`.
        """
        mask = attention_mask(batch, self.causal, self.shape.class_unit)
        return self.model(self.model.embed(batch.x, batch.hidden), mask, self.causal, batch.keep, states)

    def of_units(self, hidden: Tensor) -> Tensor:
        """Hidden states without the class unit's, where there is one."""
        return hidden[:, 1:] if self.shape.class_unit else hidden


def _head(width: int, outputs: tuple[int, ...], shape: ModelConfig) -> nn.Module:
    """A matrix, or a network with ReLU between its layers. What is as wide as the model is no read-out."""
    if outputs == (WIDTH,):
        return nn.Linear(width, shape.width, bias=False)
    first = Readout(width, outputs[0], shape.width_mult)
    rest = [part for pair in pairwise(outputs) for part in (nn.ReLU(), nn.Linear(*pair, bias=False))]
    return nn.Sequential(first, *rest) if rest else first


def pooled(batch: Batch, hidden: Tensor) -> Tensor:
    """[B, D]: the mean of each row's hidden states, without padding."""
    if batch.keep is not None or not batch.padded:
        return hidden.mean(1)
    return mean_over(hidden, batch.valid)


def mean_over(states: Tensor, valid: Tensor) -> Tensor:
    """[B, D]: the mean of states [B, T, D] where `valid` [B, T] says so."""
    return (states * valid[..., None]).sum(1) / valid.sum(1, keepdim=True)


def attention_mask(batch: Batch, causal: bool, class_unit: bool = False) -> Tensor | None:
    """[B, 1, T, T] bool: which positions (last axis) a position may attend to; None for all, or all before a causal one.

    Those are its own document's. Padding comes last, so that only a model that looks ahead could see it. A class unit makes
    both axes one longer, at their start: it sees all units, and all see it.
    """
    if batch.document is None and (causal or not batch.padded):
        return None
    document = batch.document if batch.document is not None else torch.zeros_like(batch.valid)
    mask = (document[:, None, :, None] == document[:, None, None, :]) & batch.valid[:, None, None, :]
    mask = mask | torch.eye(mask.shape[-1], dtype=torch.bool, device=mask.device)  # padding sees itself, or softmax fails
    if class_unit:
        mask = F.pad(torch.cat([batch.valid[:, None, None, :], mask], 2), (1, 0), value=True)
    return mask.tril() if causal else mask


def initialise(model: Model, seed: int) -> None:
    """Draw the weights, from one generator in name order, on the CPU.

    Embeddings, the mask vector and the class unit have unit variance and matrices 1/fan-in, so that every layer sees and gives
    values of order one; those that write to the residual stream are smaller by the root of their number (Radford et al. 2019);
    heads of one matrix and biases start at zero. That number, and the fan-in of a read-out, are the base's where the model has
    one: a branch's share makes up for depth, and a read-out's division for width. But the biases of a stem of several kinds
    have unit variance: they tell kinds apart, and without them the norm that follows would take away how large a single value
    is.
    """
    generator = torch.Generator().manual_seed(seed)
    zero = {f"{head}.weight" for head in model.heads}
    first = {f"{head}.0.weight" for head in model.heads}  # of heads that are networks
    base = model.shape.base or model.shape
    writers = 2 * (base.depth + (base.predictor.depth if model.predictor else 0))
    for name, parameter in sorted(model.named_parameters()):
        with torch.no_grad():
            if name.endswith("norm.weight"):
                parameter.fill_(1.0)
            elif name in zero or (name.endswith(".bias") and ".of." not in name):
                parameter.zero_()
            else:
                whole = name.endswith(("embed_tokens.weight", ".mask", ".class_unit", ".bias"))
                scale = 1.0 if whole else parameter.shape[1] ** -0.5
                if name in first:
                    scale *= model.shape.width_mult**0.5
                if name.endswith(("o_proj.weight", "down_proj.weight")):
                    scale /= writers**0.5
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * scale)
