"""What training costs, in floating-point operations, and a purse that is never overdrawn."""

from __future__ import annotations

import torch

from foundray.model.model import Model
from foundray.spec import Spec


def parameters_of(spec: Spec, classes: int) -> int:
    """Elements of the model's matrices, but of the table of embeddings, which is looked up: the N of scaling laws.

    `classes` are the data's ids, 0 for values.
    """
    with torch.device("meta"):
        model = Model(spec.model, spec.objective.build(), spec.unit_shape(classes))
    return sum(p.numel() for name, p in model.named_parameters() if p.dim() >= 2 and not name.endswith("embed_tokens.weight"))


def flops(spec: Spec, classes: int, steps: int, judged: int = 0) -> float:
    """Of training for some steps and judging by `judged` units: 6 N a unit and 12 L D T for attention (Chowdhery et al. 2022).

    A unit that is judged takes a third. What an objective leaves out (kept units of a masked autoencoder) is not deducted, for
    proxy and full run alike.
    """
    shape = spec.model
    unit = 6 * parameters_of(spec, classes) + 12 * shape.depth * shape.width * shape.context
    return unit * (steps * spec.tokens_per_step + judged / 3)


class Purse:
    """FLOPs that may be used: set aside before a part of a trial begins, spent when it is done."""

    def __init__(self, allowed: float, spent: float = 0.0):
        self.allowed, self.spent = allowed, spent
        self.aside: dict[str, float] = {}
        """By trial."""

    def set_aside(self, trial: str, amount: float) -> bool:
        """Whether there is enough left; then it is the trial's. What is aside for it already stays."""
        if trial in self.aside:
            return True
        if self.spent + sum(self.aside.values()) + amount > self.allowed * (1 + 1e-9):
            return False
        self.aside[trial] = amount
        return True

    def spend(self, trial: str) -> None:
        """What was set aside for the trial is used."""
        self.spent += self.aside.pop(trial, 0.0)

    def give_back(self, trial: str) -> None:
        """What was set aside for the trial is not used."""
        self.aside.pop(trial, None)
