"""The health of each layer: root mean squares of gradients, updates and weights, attention logits, and dead units.

They show where a network grows, fades or explodes. The ratio of updates to weights says how fast a layer learns.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import asdict

import torch
from torch import Tensor

from foundray.training.evaluating.activations import Activity
from foundray.training.step.flat import Layout
from foundray.training.step.trainer import Trainer

LAYER = re.compile(r"(?:predictor\.)?layers\.\d+")


def layer_of(name: str) -> str:
    """The layer that a parameter belongs to: `layers.3`, `embed_tokens`, `lm_head`."""
    if found := LAYER.search(name):
        return found[0]
    parts = name.removeprefix("model.").split(".")
    return parts[0]


def rms_of_squares(layout: Layout, squares: Tensor) -> dict[str, float]:
    """Root mean square of each layer's values, from the sum of squares of each block of parameters."""
    return _of_layers(layout, {e.name: float(squares[e.first : e.first + e.blocks].sum()) for e in layout.entries})


def health(trainer: Trainer, activity: Mapping[str, Activity]) -> list[dict[str, str | float]]:
    """What is known of each layer, without the gradient and the update if no step was done since the state was loaded.

    All workers of the trainer's group call this.
    """
    squares = {
        "weight_rms": trainer.weight_squares(),
        "gradient_rms": trainer.squares,
        "update_rms": trainer.update_squares,
    }
    rms = {name: rms_of_squares(trainer.layout, found) for name, found in squares.items() if found is not None}
    found: list[dict[str, str | float]] = []
    for layer in rms["weight_rms"]:
        of_units = asdict(activity[layer]) if layer in activity else {}
        found.append({"layer": layer, **{name: of_layer[layer] for name, of_layer in rms.items()}, **of_units})
    return found


def _of_layers(layout: Layout, sums: Mapping[str, float]) -> dict[str, float]:
    """Root mean squares by layer, in the network's order, from each parameter's sum of squares."""
    squares: dict[str, float] = {}
    counts: dict[str, int] = {}
    for entry in layout.entries:
        layer = layer_of(entry.name)
        squares[layer] = squares.get(layer, 0.0) + sums[entry.name]
        counts[layer] = counts.get(layer, 0) + torch.Size(entry.shape).numel()
    return {layer: (squares[layer] / counts[layer]) ** 0.5 for layer in sorted(squares, key=_order)}


def _order(layer: str) -> list[str | int]:
    """Sort key under which layer 10 comes after layer 9."""
    return [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", layer)]
