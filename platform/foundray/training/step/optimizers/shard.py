"""The update of one worker's shard of the parameters, with its state: ZeRO-1 (Rajbhandari et al. 2020) by blocks.

The 8-bit updates are bitsandbytes' own (Dettmers et al. 2022, block-wise quantisation), the 32-bit one is torch's fused
AdamW (Loshchilov and Hutter 2019), Lion is that of Chen et al. 2023.
"""

from __future__ import annotations

import contextlib
import inspect
import logging
from collections.abc import Iterable, Iterator
from types import MethodType
from typing import Any
from unittest import mock

import torch
from torch import Tensor

from foundray.model.parametrisation import Scaling
from foundray.spec import OptimizerConfig
from foundray.training.step.blocks import BLOCK
from foundray.training.step.flat import Layout
from foundray.training.step.optimizers.eight_bit import on_cpu

STATE: dict[str, dict[str, tuple[torch.dtype, int]]] = {
    "adamw": {"exp_avg": (torch.float32, BLOCK), "exp_avg_sq": (torch.float32, BLOCK)},
    "adamw8bit": {
        "state1": (torch.uint8, BLOCK),
        "state2": (torch.uint8, BLOCK),
        "absmax1": (torch.float32, 1),
        "absmax2": (torch.float32, 1),
    },
    "lion8bit": {"state1": (torch.uint8, BLOCK), "absmax1": (torch.float32, 1)},
}
"""Of each kind: its state tensors, their type, and their elements a block."""

LARGEST = 2**30
"""Elements that one call of the update is given at most: bitsandbytes' kernels count them in 32 bits."""


def state_bytes_per_block(kind: str) -> int:
    return sum(dtype.itemsize * width for dtype, width in STATE[kind].values())


class ShardOptimizer:
    """Updates `parameters`, the elements of the blocks in `shard`, in place."""

    def __init__(self, spec: OptimizerConfig, layout: Layout, shard: range, parameters: Tensor):
        self.kind = spec.kind
        self.pieces: list[tuple[slice, torch.nn.Parameter]] = []
        self.rates: list[float] = []
        """Of each piece: by what the learning rate is multiplied."""
        groups: list[dict[str, Any]] = []
        for blocks, scaling in _cut(layout.pieces(shard)):
            where = slice((blocks.start - shard.start) * BLOCK, (blocks.stop - shard.start) * BLOCK)
            piece = torch.nn.Parameter(parameters[where])
            self.pieces.append((where, piece))
            self.rates.append(scaling.lr)
            scaled = {"weight_decay": spec.weight_decay * scaling.weight_decay, "eps": spec.eps * scaling.eps}
            groups.append({"params": [piece], **scaled})
        self.update = _make(spec, groups) if groups else None

    def step(self, number: int, lr: float, gradient: Tensor) -> None:
        """Apply the `number`-th update (the first is 1) with the shard's gradient."""
        if self.update is None:
            return
        for group, rate in zip(self.update.param_groups, self.rates, strict=True):
            group["lr"] = lr * rate
        for where, piece in self.pieces:
            piece.grad = gradient[where]
            step = self.update.state[piece]["step"]
            self.update.state[piece]["step"] = torch.full_like(step, number - 1) if torch.is_tensor(step) else number - 1
        self.update.step()
        for _, piece in self.pieces:
            piece.grad = None

    def tensors(self) -> dict[str, Tensor]:
        """The state of the whole shard: each tensor [blocks * elements a block]."""
        return {
            name: torch.cat([self.update.state[piece][name] for _, piece in self.pieces])
            if self.update
            else torch.empty(0, dtype=dtype)
            for name, (dtype, _) in STATE[self.kind].items()
        }

    def load(self, tensors: dict[str, Tensor]) -> None:
        if self.update is None:
            return
        for name, (_, width) in STATE[self.kind].items():
            for where, piece in self.pieces:
                start, stop = where.start * width // BLOCK, where.stop * width // BLOCK
                self.update.state[piece][name].copy_(tensors[name][start:stop])


def _cut(pieces: Iterable[tuple[range, Scaling]]) -> Iterator[tuple[range, Scaling]]:
    """The same blocks in pieces that are not too large. Update and state are by elements and blocks: no bit depends on it."""
    most = LARGEST // BLOCK
    for blocks, scaling in pieces:
        for start in range(blocks.start, blocks.stop, most):
            yield range(start, min(start + most, blocks.stop)), scaling


@contextlib.contextmanager
def _without_compiler() -> Iterator[None]:
    """bitsandbytes hands some functions to torch.compile as it is imported, and others to torch with the wish that its compiler
    keeps off them. Both import that compiler, sooner or later, which takes longer than all else that a member imports, and none
    of these functions is compiled here. Where compiling fails, it takes them as they are."""

    def refuse(*arguments: Any, **options: Any) -> Any:
        raise RuntimeError("not compiled")

    def keep(function: Any, recursive: bool = True) -> Any:
        return function

    with mock.patch.multiple(torch, compile=refuse, _disable_dynamo=keep):
        yield


def _spare_compiler() -> None:
    """Let torch take an optimizer's parameters without importing its compiler, as it does to keep that off the method: nothing
    that is compiled here calls it."""
    method = inspect.unwrap(torch.optim.Optimizer.add_param_group)
    method.__dynamo_disable = method  # where torch looks for the method kept off


def _make(spec: OptimizerConfig, groups: list[dict[str, Any]]) -> torch.optim.Optimizer:
    _spare_compiler()
    if spec.kind == "adamw":
        update: Any = torch.optim.AdamW(groups, lr=spec.lr, betas=spec.betas, eps=spec.eps, fused=True)
        # What torch wraps the step in imports its compiler too, and else only sees to it that no gradients are recorded.
        update.step = torch.no_grad()(MethodType(inspect.unwrap(torch.optim.AdamW.step), update))
        for group in groups:
            for piece in group["params"]:
                moments = {name: torch.zeros_like(piece) for name in STATE["adamw"]}
                update.state[piece] = {"step": torch.zeros((), device=piece.device), **moments}
        return update
    # Without this, its look for an optional kernel package is told to every user as a failure.
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
    with _without_compiler():
        import bitsandbytes

    # Every piece is quantised, however small: a piece's size depends on the number of workers, its bits must not.
    if spec.kind == "adamw8bit":
        update = bitsandbytes.optim.AdamW8bit(groups, lr=spec.lr, betas=spec.betas, eps=spec.eps, min_8bit_size=1)
    else:
        update = bitsandbytes.optim.Lion8bit(groups, lr=spec.lr, betas=spec.betas, min_8bit_size=1)
    update.check_overrides()
    update.initialized = True
    if groups[0]["params"][0].device.type == "cpu":
        update.update_step = on_cpu(update)
    for index, group in enumerate(update.param_groups):
        for number, piece in enumerate(group["params"]):
            update.init_state(group, piece, index, number)
    return update
