"""The coordinate check: how much activations change in a few steps, by width or by depth (Yang et al. 2022, appendix D.1).

If hyperparameters transfer, a unit's activations change by about the same amount at every model size. Differs: the check shows
the change since initialisation, which the initial activations would hide, and gives no verdict over depths: a few steps are
not enough for one (the first layers' changes add up).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from foundray.model.model import Batch, Model
from foundray.spec import Spec
from foundray.training.step.trainer import Trainer

STEADY = (-0.5, 0.25)
"""Bounds of the exponent of width with which a change may shrink or grow: the standard parametrisation has about 1, and rates
wrongly divided by the width have about -1."""
MicroBatches = Sequence[bytes]


@dataclass(frozen=True)
class Coordinates:
    """Root mean square changes of a model's parts."""

    sizes: tuple[int, ...]
    """Widths, or depths."""
    changes: dict[str, list[list[float]]]
    """By part: for each size, the changes after 1, 2, ... steps."""

    def exponents(self) -> dict[str, float]:
        """For each part, the power of the size that its change grows with, after the last step."""
        logs = np.log(self.sizes)
        last = {part: np.array([steps[-1] for steps in of_sizes]) for part, of_sizes in self.changes.items()}
        return {part: float(np.polyfit(logs, np.log(np.maximum(change, 1e-30)), 1)[0]) for part, change in last.items()}

    @property
    def steady(self) -> bool:
        """Whether no part's change grows or vanishes with the size."""
        return all(STEADY[0] < power < STEADY[1] for power in self.exponents().values())

    def to_dict(self) -> dict[str, object]:
        return {"sizes": self.sizes, "changes": self.changes, "exponents": self.exponents(), "steady": self.steady}


def check(specs: Iterable[tuple[int, Spec]], classes: int, micro_batches: Sequence[MicroBatches]) -> Coordinates:
    """Train each of `specs`, the same run by size, on the micro-batches of each step, and measure its changes on the first."""
    sizes, found = [], []
    for size, spec in specs:
        sizes.append(size)
        found.append(_changes(spec, classes, micro_batches))
    return Coordinates(tuple(sizes), {part: [one[part] for one in found] for part in found[0]})


def _changes(spec: Spec, classes: int, micro_batches: Sequence[MicroBatches]) -> dict[str, list[float]]:
    objective = spec.objective.build()
    trainer = Trainer(spec, Model(spec.model, objective, spec.unit_shape(classes)), objective)
    trainer.initialise()
    batch = Batch.load(micro_batches[0][0], trainer.device)
    first = _outputs(trainer.model, batch)
    changes: dict[str, list[float]] = {part: [] for part in first}
    # After each step, compare the outputs for the first micro-batch with those at initialisation.
    for step, payloads in enumerate(micro_batches):
        per_step = spec.train.micro_batches
        trainer.step(step, ((step * per_step + index, payload) for index, payload in enumerate(payloads)))
        now = _outputs(trainer.model, batch)
        for part, outputs in now.items():
            squares = [(after - before).pow(2).mean() for after, before in zip(outputs, first[part], strict=True)]
            changes[part].append(float(torch.stack(squares).mean().sqrt()))
    return changes


@torch.no_grad()
def _outputs(model: Model, batch: Batch) -> dict[str, list[Tensor]]:
    """Outputs of a model's parts for a micro-batch, from all layers."""
    outputs: dict[str, list[Tensor]] = {}
    hooks = [module.register_forward_hook(_keeper(outputs.setdefault(part, []))) for part, module in _parts(model)]
    model(batch)
    for hook in hooks:
        hook.remove()
    return {part: tensors for part, tensors in outputs.items() if tensors}


def _keeper(kept: list[Tensor]) -> Callable[[nn.Module, object, Tensor], None]:
    return lambda module, inputs, output: kept.append(output.detach().clone())


def _parts(model: Model) -> list[tuple[str, nn.Module]]:
    stem = model.model.embed_tokens if model.model.reads_ids else model.model.embed_values
    layers = [*model.model.layers, *(model.predictor.layers if model.predictor else [])]
    inside = [(name, layer.get_submodule(path)) for layer in layers for name, path in _INSIDE.items()]
    return [("stem", stem), *inside, ("hidden states", model.model.norm), *((h, model.get_submodule(h)) for h in model.heads)]


_INSIDE = {"queries": "self_attn.q_proj", "attention": "self_attn", "feed-forward": "mlp"}
