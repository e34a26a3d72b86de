"""torch's fused 32-bit AdamW (Loshchilov and Hutter 2019)."""

from __future__ import annotations

import inspect
from types import MethodType
from typing import Any

import torch

from foundray.spec import OptimizerConfig
from foundray.spec.optimizers import KINDS


def adamw(spec: OptimizerConfig, groups: list[dict[str, Any]]) -> torch.optim.Optimizer:
    update = torch.optim.AdamW(groups, lr=spec.lr, betas=spec.betas, eps=spec.eps, fused=True)
    # torch's wrapper of the step imports its compiler; otherwise it only disables gradients, which no_grad does here.
    step = torch.no_grad()(MethodType(inspect.unwrap(torch.optim.AdamW.step), update))
    update.step = step  # type: ignore[method-assign]
    # torch makes the state in the first step; a checkpoint is loaded before that.
    for group in groups:
        for parameter in group["params"]:
            moments = {name: torch.zeros_like(parameter) for name in KINDS["adamw"].per_element}
            update.state[parameter] = {"step": torch.zeros((), device=parameter.device), **moments}
    return update
