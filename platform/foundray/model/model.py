"""The model of a run: stem, backbone and heads, built from the spec's shape and the objective.

The state dict of a `next_token` model loads, without renaming, into Hugging Face's `LlamaForCausalLM`; that of a
`masked_token` model, except the mask vector, into `EuroBertForMaskedLM`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import pairwise

import torch
from safetensors import torch as safetensors
from torch import Tensor, nn
from torch.nn import functional as F

from foundray.contract import WIDTH, Objective, UnitShape
from foundray.host.devices import traits
from foundray.model.backbone import Backbone, Layers, Predictor, Stage, run
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
    """[B, T] int64, if a sample holds more than one."""
    masked: Tensor | None
    """[B, T] bool: masked units, if the objective masks any."""
    visible: Tensor | None
    """[B, S] int64: visible units, if the objective drops the others."""
    targets: dict[str, tuple[Tensor | None, Tensor]]
    """By head: target [B, T] int64 or [B, T, outputs] float32, or None for teacher targets; and loss mask [B, T] bool."""
    padded: bool

    @staticmethod
    def load(payload: bytes, device: torch.device) -> Batch:
        """Load a payload onto the device."""
        arrays = safetensors.load(payload)
        if not traits(device).in_main_memory:
            arrays = {name: t.pin_memory().to(device, non_blocking=True) for name, t in arrays.items()}
        arrays = {name: t.long() if t.dtype == torch.int32 else t for name, t in arrays.items()}
        x, padded = arrays["x"], "valid" in arrays
        valid = arrays["valid"] if padded else torch.ones(x.shape[:2], dtype=torch.bool, device=device)
        heads = dict.fromkeys(name.rpartition(".")[0] for name in arrays if "." in name)
        targets = {head: (arrays.get(f"{head}.target"), arrays.get(f"{head}.where", valid)) for head in heads}
        return Batch(x, valid, arrays.get("document"), arrays.get("hidden"), arrays.get("keep"), targets, padded)

    def rows(self, rows: slice) -> Batch:
        """Some of its samples."""

        def some(tensor: Tensor | None) -> Tensor | None:
            return None if tensor is None else tensor[rows]

        return replace(
            self,
            x=self.x[rows],
            valid=self.valid[rows],
            document=some(self.document),
            masked=some(self.masked),
            visible=some(self.visible),
            targets={head: (some(target), loss_mask[rows]) for head, (target, loss_mask) in self.targets.items()},
        )


class Model(nn.Module):
    """`forward` returns the answers of each head in the batch: [B, T, outputs], or [B, 1, outputs] if samples are coupled."""

    def __init__(self, shape: ModelConfig, objective: Objective, units: UnitShape):
        """`units` describes the data; the objective may append ids of its own."""
        super().__init__()
        self.shape, self.causal, self.couples = shape, objective.causal, objective.couples
        data = units
        if units.classes:
            units = replace(units, classes=units.classes + objective.extra_ids)
        self.model = Backbone(shape, units, objective.masks)
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
        """Factors on the optimizer's hyperparameters, by parameter."""

    @property
    def stacks(self) -> list[Layers]:
        """Its stacks of layers: the backbone's, and the predictor's if there is one."""
        return [self.model, *([self.predictor] if self.predictor is not None else [])]

    def set_tables(self, device: torch.device) -> None:
        """Compute the fixed positions, of a model that was made without memory, on a device."""
        for layers in self.stacks:
            layers.set_tables(device)

    def forward(self, batch: Batch, states: list[Tensor] | None = None) -> dict[str, Tensor]:
        return self.answer(batch, self.encode(batch, states))

    def answer(self, batch: Batch, hidden: Tensor) -> dict[str, Tensor]:
        """Compute the heads' answers from the encoder's hidden states."""
        return self.heads_of(batch, run(self.decoder(batch), hidden))

    def encode(self, batch: Batch, states: list[Tensor] | None = None) -> Tensor:
        """Compute hidden states [B, T, D], or [B, S, D] of visible units; a class unit's comes first.

        The hidden states of each layer are appended to `states`.
        """
        return run(self.encoder(batch, states), batch.x)

    def encoder(self, batch: Batch, states: list[Tensor] | None = None) -> list[Stage]:
        """The stages of `encode`, one for each of the first of `foundray.model.units.units`."""
        mask = attention_mask(batch, self.causal, self.shape.class_unit)
        return self.model.stages(lambda _: self.model.embed(batch.x, batch.masked), mask, self.causal, batch.visible, states)

    def decoder(self, batch: Batch) -> list[Stage]:
        """The stages between the encoder and the heads: the predictor's, if units were dropped and it sets them in again."""
        predictor, visible = self.predictor, batch.visible
        if predictor is None or visible is None:
            return []
        return predictor.stages(lambda hidden: predictor.spread(hidden, visible, batch.x.shape[1]), None, False)

    def heads_of(self, batch: Batch, hidden: Tensor) -> dict[str, Tensor]:
        """The heads' answers, from hidden states as the last stage computes them."""
        hidden = self.of_units(hidden)
        if self.couples:
            hidden = pooled(batch, hidden)[:, None]
        return {head: self.get_submodule(head)(hidden) for head in batch.targets}

    def of_units(self, hidden: Tensor) -> Tensor:
        """Hidden states without the class unit's, if any."""
        return hidden[:, 1:] if self.shape.class_unit else hidden


def _head(width: int, outputs: tuple[int, ...], shape: ModelConfig) -> nn.Module:
    """Build a matrix, or a network with ReLU between its layers. A head as wide as the model is not a readout."""
    if outputs == (WIDTH,):
        return nn.Linear(width, shape.width, bias=False)
    first = Readout(width, outputs[0], shape.width_mult)
    rest = [part for pair in pairwise(outputs) for part in (nn.ReLU(), nn.Linear(*pair, bias=False))]
    return nn.Sequential(first, *rest) if rest else first


def pooled(batch: Batch, hidden: Tensor) -> Tensor:
    """Mean of each sample's hidden states without padding, [B, D]."""
    if batch.visible is not None or not batch.padded:
        return hidden.mean(1)
    return mean_over(hidden, batch.valid)


def mean_over(states: Tensor, valid: Tensor) -> Tensor:
    """Mean of states [B, T, D] over the `valid` [B, T] units, [B, D]."""
    return (states * valid[..., None]).sum(1) / valid.sum(1, keepdim=True)


def attention_mask(batch: Batch, causal: bool, class_unit: bool = False) -> Tensor | None:
    """Attention mask [B, 1, T, T] bool: the positions (last axis) that each position may attend to, those of its own document.

    None stands for all, or for all earlier ones if `causal`. Padding comes last, so only a bidirectional model could see it. A
    class unit adds one position at the start of both axes: it sees all units, and all see it.
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
    """Set the weights of `initial_weights`."""
    parameters = dict(model.named_parameters())
    with torch.no_grad():
        for name, values in initial_weights(model, seed):
            parameters[name].copy_(values)


def initial_weights(model: Model, seed: int) -> Iterator[tuple[str, Tensor]]:
    """Draw the weights from one generator, in name order, on the CPU.

    Embeddings, the mask vector and the class unit have unit variance, and matrices 1/fan-in, so that every layer's inputs and
    outputs are of order one. Matrices that write to the residual stream are divided by the root of their number (Radford et
    al. 2019). Heads of one matrix and biases start at zero. If the model has a base, that number and the fan-in of a readout
    are the base's: a branch's share accounts for depth, a readout's division for width. Biases of a stem of several kinds have
    unit variance: they distinguish the kinds, and without them the norm that follows would remove a single value's magnitude.
    """
    generator = torch.Generator().manual_seed(seed)
    zero = {f"{head}.weight" for head in model.heads}
    readouts = {f"{head}.0.weight" for head in model.heads}  # of heads that are networks
    base = model.shape.base or model.shape
    writers = 2 * (base.depth + (base.predictor.depth if model.predictor else 0))
    for name, shape in sorted((name, parameter.shape) for name, parameter in model.named_parameters()):
        if name.endswith("norm.weight"):
            yield name, torch.ones(shape)
        elif name in zero or (name.endswith(".bias") and ".of." not in name):
            yield name, torch.zeros(shape)
        else:
            unit_variance = name.endswith(("embed_tokens.weight", ".mask", ".class_unit", ".bias"))
            scale = 1.0 if unit_variance else shape[1] ** -0.5
            if name in readouts:
                scale *= model.shape.width_mult**0.5
            if name.endswith(("o_proj.weight", "down_proj.weight")):
                scale /= writers**0.5
            yield name, torch.randn(shape, generator=generator) * scale
