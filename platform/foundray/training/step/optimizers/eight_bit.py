"""bitsandbytes' 8-bit updates: block-wise quantisation (Dettmers et al. 2022) of AdamW and of Lion (Chen et al. 2023)."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator
from typing import Any
from unittest import mock

import torch

from foundray.spec import OptimizerConfig
from foundray.training.step.optimizers import eight_bit_cpu


def adamw(spec: OptimizerConfig, groups: list[dict[str, Any]]) -> torch.optim.Optimizer:
    # Every parameter is quantised, however small: its size depends on the number of workers, its bits must not.
    options = {"lr": spec.lr, "betas": spec.betas, "eps": spec.eps, "min_8bit_size": 1}
    return _ready(load_bitsandbytes().optim.AdamW8bit(groups, **options), eight_bit_cpu.adamw)


def lion(spec: OptimizerConfig, groups: list[dict[str, Any]]) -> torch.optim.Optimizer:
    options = {"lr": spec.lr, "betas": spec.betas, "min_8bit_size": 1}
    return _ready(load_bitsandbytes().optim.Lion8bit(groups, **options), eight_bit_cpu.lion)


def load_bitsandbytes() -> Any:
    """Import bitsandbytes without torch's compiler, and without its message about a missing optional kernel package."""
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
    with _without_compiler():
        import bitsandbytes
    return bitsandbytes


def _ready(update: Any, rule: eight_bit_cpu.Rule) -> torch.optim.Optimizer:
    """Make the state now, since a checkpoint is loaded before the first step. On a CPU, replace the update by a faster one."""
    update.check_overrides()
    update.initialized = True
    if update.param_groups[0]["params"][0].device.type == "cpu":
        update.update_step = eight_bit_cpu.on_cpu(update, rule)
    for index, group in enumerate(update.param_groups):
        for number, parameter in enumerate(group["params"]):
            update.init_state(group, parameter, index, number)
    ready: torch.optim.Optimizer = update
    return ready


@contextlib.contextmanager
def _without_compiler() -> Iterator[None]:
    """Keep torch's compiler from being imported along with bitsandbytes.

    bitsandbytes passes some functions to torch.compile and excludes others from it. Both import the compiler, which takes
    longer than all other imports of a worker, and none of these functions is compiled here. If compiling fails, bitsandbytes
    uses the functions as they are.
    """

    def refuse(*arguments: Any, **options: Any) -> Any:
        raise RuntimeError("not compiled")

    def keep(function: Any, recursive: bool = True) -> Any:
        return function

    with mock.patch.multiple(torch, compile=refuse, _disable_dynamo=keep):
        yield
