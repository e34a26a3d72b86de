"""A worker's memory while it trains, in bytes: the state exactly, activations by a formula.

State, per parameter (padded to blocks): 4 weights, 4 gradient, 8 exact sum or 4 rounded; 4 teacher, if there is one; and
the optimizer's 2.03 (8-bit AdamW) or 8, divided by the number of workers. The exact sum converts a gradient to integers in
chunks of 12 bytes per element.

A member of a team of k holds a k-th of the weights and of the sum, and no gradient; while it computes, one unit is there whole,
with its gradient: 8 bytes per parameter of the largest unit, and one piece of what arrives from the others.

Activations, per layer and unit, of width D, feed-forward width F and H heads, in bytes (after Korthikanti et al. 2022,
arXiv:2205.05198, section 4.1, for SwiGLU and flash attention, which keeps no matrix of units by units):

    bf16    26 D + 8 F + 4 H     the residual stream in fp32 twice (8 D); inputs of q, k, v (6 D); q, k, v and attention's
                                 output (8 D); inputs of gate and up (4 D); gate, its SiLU, up, their product (8 F);
                                 the softmax's logarithms (4 H)
    fp32    32 D + 16 F + 4 H    the same, except that q, k and v share one input, and gate and up another

If a sample holds several documents, a layer keeps their mask, 2 T^2 (4 in fp32). If RMSNorm has no kernel of its own, as on a
CPU, a layer keeps 8 D more.

With `train.recompute: full` a layer keeps only what enters it, 4 D, and one layer at a time holds the rest. With `selective` it
keeps that and the outputs of attention and of matrix products, except its last:

    bf16    14 D + 4 F + 4 H
    fp32    24 D + 8 F + 4 H

A head keeps 12 bytes per output: logits, log-probabilities and a gradient. With `train.loss_chunk` only one chunk of one head
does, and the gradient of the head's weights is there once more, since those of the chunks are added.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass

import numpy as np
import torch

from foundray.contract import WIDTH, Units, Values
from foundray.host.devices import DEVICES, device_type
from foundray.model.model import Model
from foundray.model.recomputing import Recompute
from foundray.model.units import units
from foundray.spec import ModelConfig, Spec
from foundray.training.elastic.replicas import STATES_KEPT
from foundray.training.step.blocks import BLOCK
from foundray.training.step.flat import Layout
from foundray.training.step.optimizers.shard import state_bytes_per_block
from foundray.training.step.team.holding import PIECE, holding

BYTES_PER_OUTPUT = 12
RESERVED = 2**30
"""Bytes of a GPU for CUDA's context, kernels' workspace and the allocator's fragmentation. Assumed."""


@dataclass(frozen=True)
class Footprint:
    """Bytes of one of `world` workers."""

    world: int
    weights: int
    """Including the teacher's."""
    gradients: int
    summing: int
    """The sum of micro-batches' gradients."""
    optimizer: int
    gathered: int
    """A unit of the model that its team has gathered, its gradient, and between GPUs the unit that is used next; 0 for a worker
    that holds the whole model."""
    cast: int
    """Matrices in bf16, while a micro-batch is computed."""
    activations: int
    """What layers keep of a micro-batch for the backward pass. Estimated."""
    outputs: int
    """What heads keep of a micro-batch. Estimated."""
    update: int
    """A copy of the own weights during an update that an evaluation follows, when there are no activations; 0 if it lies in the
    memory of an exact sum, as the step's gradient does."""
    reserved: int
    copies: int
    """Copies in main memory of its own and another worker's state shards. Not part of the total."""

    @property
    def state(self) -> int:
        """Bytes held from step to step."""
        return self.weights + self.gradients + self.summing + self.optimizer

    @property
    def total(self) -> int:
        """Peak bytes."""
        return self.state + max(self.gathered + self.cast + self.activations + self.outputs, self.update) + self.reserved

    def to_dict(self) -> dict[str, int]:
        return {**asdict(self), "state": self.state, "total": self.total}


def footprint(spec: Spec, classes: int, world: int = 1, on_gpu: bool = True, recompute: bool = False) -> Footprint:
    """The footprint of one of `world` workers, for data with ids below `classes` (0 for values).

    `on_gpu` means a GPU with bf16; a CPU computes in fp32. `recompute` assumes recomputed activations, as on a device whose
    memory is too small for them.
    """
    objective = spec.objective.build()
    with torch.device("meta"):
        model = Model(spec.model, objective, spec.unit_shape(classes))
    layout, team = Layout.of(model), spec.scale.team_size
    parts = holding(layout, units(model), team, 0)
    largest = BLOCK * max(len(part.blocks) for part in parts)
    if team == 1:
        blocks, sharing, most = layout.blocks, world, max(spec.scale.world[1], world)
    else:
        blocks = sum(part.share for part in parts)
        sharing = most = -(-world // team)
    share, elements = -(-blocks // sharing), (blocks + most - 1) * BLOCK
    chunk = min(DEVICES[device_type(on_gpu)].chunk, elements)
    summing = elements * 8 + chunk * 12 if spec.train.exact else elements * 4
    weights = elements * (8 if objective.teaches else 4)
    optimizer = share * state_bytes_per_block(spec.optimizer.kind)
    matrices = sum(p.numel() for name, p in model.named_parameters() if p.dim() == 2 and not name.endswith("tokens.weight"))
    how: Recompute = "full" if recompute else "none" if spec.train.recompute == "auto" else spec.train.recompute
    if team > 1 and how != "none":
        matrices = min(matrices, largest)  # a stage's, while it computes; otherwise autocast keeps all for the backward pass
    activations, outputs = _of_micro_batch(spec, classes, model, 2 if on_gpu else 4, how)
    return Footprint(
        world=world,
        weights=weights,
        gradients=elements * 4 if team == 1 else 0,
        summing=summing,
        optimizer=optimizer,
        gathered=(12 if on_gpu else 8) * largest + 4 * min(largest, PIECE) if team > 1 else 0,
        cast=2 * matrices if on_gpu else 0,
        activations=activations,
        outputs=outputs,
        update=0 if spec.train.exact else share * BLOCK * 4,
        reserved=RESERVED if on_gpu else 0,
        copies=2 * STATES_KEPT * (weights * team // world + optimizer) if world > 1 and spec.fault.mirrors else 0,
    )


def _of_micro_batch(spec: Spec, classes: int, model: Model, item: int, recompute: Recompute) -> tuple[int, int]:
    """Bytes that layers and heads keep, if values in matrix products have `item` bytes."""
    objective, modality = spec.objective.build(), spec.data.modality.build()
    plan = objective.plan(_sample(spec, classes), np.random.default_rng(0))
    length = len(plan.units)
    rows = spec.train.micro_batch_size * (2 if objective.couples else 1)
    shown = (length if plan.visible is None else len(plan.visible)) + spec.model.class_unit
    documents = not isinstance(modality, Values) and modality.alphabet is None
    kept = of_layers(spec.model, rows, shown, item, recompute, documents)
    if objective.predicts:
        kept += of_layers(spec.model.of_predictor, rows, length, item, recompute, False)
    return kept, _of_heads(model, rows * (1 if objective.couples else length), spec.train.loss_chunk)


def _of_heads(model: Model, answers: int, chunk: int | None) -> int:
    """Bytes that heads keep to answer for this number of units, at once or chunk by chunk."""
    outputs = {
        head: sum(model.shape.width if width == WIDTH else width for width in (each if isinstance(each, tuple) else (each,)))
        for head, each in model.heads.items()
    }
    if chunk is None:
        return answers * BYTES_PER_OUTPUT * sum(outputs.values())
    added = max(sum(weights.nbytes for weights in model.get_submodule(head).parameters()) for head in outputs)
    return min(answers, chunk) * BYTES_PER_OUTPUT * max(outputs.values()) + (added if answers > chunk else 0)


def of_layers(shape: ModelConfig, rows: int, units: int, item: int, recompute: Recompute, documents: bool) -> int:
    """Bytes that a stack of layers keeps for [rows, units]; see the top of this module."""
    width, hidden = shape.width, shape.hidden_width
    inputs = (3 + 2 if shape.act == "swiglu" else 3 + 1) if item == 2 else 2
    inner = {"swiglu": 4, "gelu": 2, "relu": 1}[shape.act]
    unit = 2 * 4 * width + item * (inputs * width + 4 * width + inner * hidden) + 4 * shape.heads
    mask = item * units * units if documents else 0
    layer, last = rows * (units * unit + mask), rows * units * (4 + item) * width
    match recompute:
        case "none":
            return shape.depth * layer + last
        case "full":
            return shape.depth * rows * units * 4 * width + layer + last
    products = 2 if shape.act == "swiglu" else 1
    kept = rows * units * (4 * width + item * (5 * width + products * hidden) + 4 * shape.heads)
    # The layer at work has what it keeps and computes the rest, which the output of attention's last matrix is no part of.
    return (shape.depth - 1) * kept + layer + rows * units * item * width + last


def _sample(spec: Spec, classes: int) -> Units:
    """A sample of zeros, of maximal length."""
    shape, context = spec.unit_shape(classes), spec.model.context
    if shape.classes:
        return Units(np.zeros(spec.objective.build().reads(context) + 1, np.int64), shape=shape)
    return Units(np.zeros((context, shape.width), np.float32), shape=shape)
