"""The update of one worker's shard of the parameters, with its state: ZeRO-1 (Rajbhandari et al. 2020) by blocks."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from torch import Tensor

from foundray.model.parametrisation import Scaling
from foundray.spec import OptimizerConfig
from foundray.spec.optimizers import KINDS
from foundray.training.step.blocks import BLOCK, Blocks
from foundray.training.step.flat import Layout

LARGEST = 2**30
"""Most elements that one call of the update gets: bitsandbytes' kernels count them in 32 bits."""

Maker = Callable[[OptimizerConfig, list[dict[str, Any]]], torch.optim.Optimizer]
"""Makes an optimizer of parameter groups. `state` of each parameter holds the tensors of its kind's row, and `step`, the count
of updates: an integer or a tensor of one."""


def state_tensors(kind: str) -> dict[str, tuple[torch.dtype, int]]:
    """Each state tensor's type, and its elements per block."""
    row = KINDS[kind]
    widths = ((row.per_element, BLOCK), (row.per_block, 1))
    return {name: (getattr(torch, dtype), width) for tensors, width in widths for name, dtype in tensors.items()}


def state_bytes_per_block(kind: str) -> int:
    return sum(dtype.itemsize * width for dtype, width in state_tensors(kind).values())


class ShardOptimizer:
    """Updates `parameters`, the elements of the blocks in `shard`, in place."""

    def __init__(self, spec: OptimizerConfig, layout: Layout, shard: Blocks, parameters: Tensor):
        self.kind = spec.kind
        self.state = state_tensors(spec.kind)
        self.spans: list[tuple[slice, torch.nn.Parameter]] = []
        """Parts of the shard that share hyperparameters: their elements, and the same as a parameter."""
        self.lr_factors: list[float] = []
        """The learning rate's factor, per span."""
        groups: list[dict[str, Any]] = []
        for blocks, scaling in _cut(layout.spans(shard)):
            elements = slice(blocks.start * BLOCK, blocks.stop * BLOCK)
            parameter = torch.nn.Parameter(parameters[elements])
            self.spans.append((elements, parameter))
            self.lr_factors.append(scaling.lr)
            scaled = {"weight_decay": spec.weight_decay * scaling.weight_decay, "eps": spec.eps * scaling.eps}
            groups.append({"params": [parameter], **scaled})
        self.update = _make(spec, groups) if groups else None

    def step(self, number: int, lr: float, gradient: Tensor) -> None:
        """Apply the `number`-th update (the first is 1) with the shard's gradient."""
        if self.update is None:
            return
        for group, factor in zip(self.update.param_groups, self.lr_factors, strict=True):
            group["lr"] = lr * factor
        # The count of updates is not part of the state: it follows from the step.
        for elements, parameter in self.spans:
            parameter.grad = gradient[elements]
            step = self.update.state[parameter]["step"]
            self.update.state[parameter]["step"] = torch.full_like(step, number - 1) if torch.is_tensor(step) else number - 1
        self.update.step()
        for _, parameter in self.spans:
            parameter.grad = None

    def tensors(self) -> dict[str, Tensor]:
        """A copy of the state of the whole shard: each tensor [blocks * elements per block]."""
        return {name: torch.cat(parts) for name, parts in self.parts().items()}

    def parts(self) -> dict[str, list[Tensor]]:
        """The state of the whole shard, each tensor in the parts that the updates use."""
        if self.update is None:
            return {name: [torch.empty(0, dtype=dtype)] for name, (dtype, _) in self.state.items()}
        return {name: [self.update.state[parameter][name] for _, parameter in self.spans] for name in self.state}

    def load(self, tensors: dict[str, Tensor]) -> None:
        """Take over the state of the whole shard, as `tensors` returns it."""
        if self.update is None:
            return
        for name, (_, width) in self.state.items():
            for elements, parameter in self.spans:
                start, stop = elements.start * width // BLOCK, elements.stop * width // BLOCK
                self.update.state[parameter][name].copy_(tensors[name][start:stop])


def _cut(spans: Iterable[tuple[range, Scaling]]) -> Iterator[tuple[range, Scaling]]:
    """Cut spans that are too large for one call. Update and state work by elements and blocks, so no bit depends on it."""
    most = LARGEST // BLOCK
    for blocks, scaling in spans:
        for start in range(blocks.start, blocks.stop, most):
            yield range(start, min(start + most, blocks.stop)), scaling


def _make(spec: OptimizerConfig, groups: list[dict[str, Any]]) -> torch.optim.Optimizer:
    _keep_compiler_unloaded()
    make: Maker = KINDS[spec.kind].function()
    return make(spec, groups)


def _keep_compiler_unloaded() -> None:
    """Let torch add an optimizer's parameters without importing its compiler.

    torch imports it to exclude that method from compilation; nothing that is compiled here calls the method.
    """
    method: Any = inspect.unwrap(torch.optim.Optimizer.add_param_group)
    method.__dynamo_disable = method  # torch looks here for the excluded method
