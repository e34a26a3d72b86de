"""The units of a model: parts whose parameters are used together, in the order in which a forward pass uses them.

A team of workers holds one copy of the model between them, and gathers a unit before a stage uses it.
"""

from __future__ import annotations

from dataclasses import dataclass

from foundray.model.backbone import Layers
from foundray.model.model import Model


@dataclass(frozen=True)
class Unit:
    name: str
    parameters: tuple[str, ...]


def units(model: Model) -> list[Unit]:
    """One unit per stage of `Model.encoder` and `Model.decoder`, then the heads: every parameter is in one of them."""
    names = list(dict(model.named_parameters()))
    parts = [("model", model.model), *([("predictor", model.predictor)] if model.predictor is not None else [])]
    found = [unit for prefix, part in parts for unit in _of_layers(prefix, part, names)]
    taken = {name for unit in found for name in unit.parameters}
    return [*found, Unit("heads", tuple(name for name in names if name not in taken))]


def _of_layers(prefix: str, part: Layers, names: list[str]) -> list[Unit]:
    """The stem of a part, and each of its layers; the final norm belongs to the last layer."""
    layers = [f"{prefix}.layers.{index}." for index in range(len(part.layers))]
    owned = {layer: [name for name in names if name.startswith(layer)] for layer in layers}
    owned[layers[-1]] += (final := [name for name in names if name.startswith(f"{prefix}.norm.")])
    rest = [n for n in names if n.startswith(f"{prefix}.") and not n.startswith(f"{prefix}.layers.") and n not in final]
    return [Unit(f"{prefix}.stem", tuple(rest)), *(Unit(layer[:-1], tuple(owned[layer])) for layer in layers)]
