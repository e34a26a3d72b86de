"""bitsandbytes' 8-bit updates on a CPU: the same bits in a third of the time.

Its CPU kernels quantise a value x of a block whose largest magnitude is m by a table of 65,536 codes, at the index
(x / m + 1) * 32767.5 + 0.5, truncated to an integer. Here PyTorch's vectorised operations look up the same table, which those
kernels filled. An update works on chunks that fit into a processor's cache, in buffers that are allocated once: fresh memory
from the system costs more than the arithmetic. Blocks whose scale is not a normal number go through bitsandbytes' own kernel.
"""

from __future__ import annotations

import ctypes
import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from foundray.training.step.blocks import BLOCK

CHUNK = 2**16
"""Elements updated at once: few enough for a cache of 2 MB, enough for the calls to cost little."""
CODES = 2**16
HALF = (CODES - 1) / 2
NORMAL, LARGEST = torch.finfo(torch.float32).tiny, torch.finfo(torch.float32).max


_known: dict[bytes, tuple[Tensor, bool]] = {}
"""By a code's bytes: its table, and whether bitsandbytes' kernel agrees with it."""

Rule = Callable[..., None]
"""Updates (weights, gradient, group, step, scratch, *moments), all [N] fp32, in place; overwrites `scratch`."""


def on_cpu(update: Any, rule: Rule) -> Callable[..., None]:
    """A replacement for the `update_step` of a bitsandbytes optimizer that updates by `rule`, for parameters on a CPU."""
    quantisers: dict[str, Quantiser] = {}
    moments, scratch = torch.empty(2, CHUNK), torch.empty(CHUNK)

    @torch.no_grad()
    def update_step(group: dict[str, Any], parameter: Tensor, *indices: int) -> None:
        state = update.state[parameter]
        state["step"] += 1
        numbers = [number for number in "12" if f"state{number}" in state]
        for number in numbers:
            if number not in quantisers:
                quantisers[number] = Quantiser(state[f"qmap{number}"])
        used = [quantisers[number] for number in numbers]
        # Cut weights, gradient, and each moment's codes and scales into the same chunks.
        columns: list[Any] = [parameter.detach().split(CHUNK), parameter.grad.split(CHUNK)]  # type: ignore[union-attr]
        for number in numbers:
            columns.append(
                zip(state[f"state{number}"].split(CHUNK), state[f"absmax{number}"].split(CHUNK // BLOCK), strict=True)
            )
        # Per chunk: read the moments, update, and quantise the moments again.
        for weights, gradient, *stored in zip(*columns, strict=True):
            values = [moment[: len(weights)] for moment in moments[: len(used)]]
            for quantiser, (codes, scales), moment in zip(used, stored, values, strict=True):
                quantiser.values(codes, scales, moment)
            rule(weights, gradient, group, state["step"], scratch[: len(weights)], *values)
            for quantiser, (codes, scales), moment in zip(used, stored, values, strict=True):
                quantiser.quantise(moment, codes, scales)

    return update_step


def adamw(
    weights: Tensor, gradient: Tensor, group: dict[str, Any], step: int, scratch: Tensor, first: Tensor, second: Tensor
) -> None:
    """AdamW in bitsandbytes' order of operations, since the bits depend on it."""
    beta1, beta2 = group["betas"]
    first.mul_(beta1).add_(gradient, alpha=1.0 - beta1)
    second.mul_(beta2).addcmul_(gradient, gradient, value=1.0 - beta2)
    denominator = torch.sqrt(second, out=scratch).div_(math.sqrt(1.0 - beta2**step)).add_(group["eps"])
    if group["weight_decay"] > 0.0:
        weights.mul_(1.0 - group["lr"] * group["weight_decay"])
    weights.addcdiv_(first, denominator, value=-group["lr"] / (1.0 - beta1**step))


def lion(weights: Tensor, gradient: Tensor, group: dict[str, Any], step: int, scratch: Tensor, first: Tensor) -> None:
    """Lion in bitsandbytes' order of operations."""
    beta1, beta2 = group["betas"]
    if group["weight_decay"] > 0.0:
        weights.mul_(1.0 - group["lr"] * group["weight_decay"])
    direction = torch.mul(first, beta1, out=scratch).add_(gradient.mul(1.0 - beta1)).sign_()
    weights.add_(direction, alpha=-group["lr"])
    first.mul_(beta2).add_(gradient, alpha=1.0 - beta2)


class Quantiser:
    """Converts to and from the 256 values of one code [256] fp32, in blocks of 256 elements with a scale each."""

    def __init__(self, code: Tensor):
        self.code = code
        self.signed = bool((code < 0).any())
        self.half = torch.tensor(0.5)
        self.scratch = torch.empty(CHUNK)
        self.indices = torch.empty(CHUNK, dtype=torch.int32)
        self.kernel = _dequantise()
        if (known := _known.get(key := code.numpy().tobytes())) is None:
            self.table, self.agrees = _table(code), True
            known = _known[key] = self.table, self._agrees()
        self.table, self.agrees = known

    def values(self, codes: Tensor, scales: Tensor, values: Tensor) -> None:
        """Dequantise codes [N] uint8 with scales [N / 256] into values [N] fp32; all are contiguous."""
        if self.kernel is None:
            values.copy_(torch.ops.bitsandbytes.dequantize_blockwise(codes, scales, self.code, BLOCK, torch.float32))
            return
        pointers = (ctypes.c_void_p(tensor.data_ptr()) for tensor in (self.code, codes, scales, values))
        self.kernel(*pointers, ctypes.c_longlong(BLOCK), ctypes.c_longlong(len(codes)))

    def quantise(self, values: Tensor, codes: Tensor, scales: Tensor) -> None:
        """Quantise values [N] into codes and scales: at most CHUNK values, none below 0 if the code has no sign."""
        scratch, indices = self.scratch[: len(values)], self.indices[: len(values)]
        blocks = scratch.view(-1, BLOCK)
        # A block's scale is its largest magnitude.
        torch.amax((torch.abs(values, out=scratch) if self.signed else values).view(-1, BLOCK), 1, out=scales)
        # Scales of zero give the code 0; other scales that are not normal need bitsandbytes' kernel.
        least, most = (bound.item() for bound in torch.aminmax(scales))
        zero = None
        if not (self.agrees and least >= NORMAL and most <= LARGEST):
            zero = scales == 0
            if not (self.agrees and (((scales >= NORMAL) & scales.isfinite()) | zero).all()):
                for own, found in zip((codes, scales), _theirs(values, self.code), strict=True):
                    own.copy_(found)
                return
        # Scale the values to [-1, 1] and look up their codes.
        factors = (scales if zero is None else scales.clamp(min=NORMAL)).reciprocal()
        torch.mul(values.view(-1, BLOCK), factors[:, None], out=blocks)
        torch.add(self.half, scratch.add_(1.0), alpha=HALF, out=scratch)
        torch.index_select(self.table, 0, indices.copy_(scratch), out=codes)
        if zero is not None:
            codes.view(-1, BLOCK)[zero] = 0

    def _agrees(self) -> bool:
        """Whether bitsandbytes' kernel, as built for this processor, rounds alike at every boundary of the table."""
        boundary = torch.arange(CODES, dtype=torch.float64).add_(0.5).div_(HALF).sub_(1.0).float()
        boundary[-1] = 1.0
        for towards in (-2.0, 0.0, 2.0):
            near = torch.nextafter(boundary, torch.tensor(towards)) if towards else boundary
            values = _among_ones(near.clamp(0.0 if not self.signed else -1.0, 1.0))
            for chunk in values.split(CHUNK):
                codes, scales = torch.empty(len(chunk), dtype=torch.uint8), torch.empty(len(chunk) // BLOCK)
                self.quantise(chunk, codes, scales)
                if not torch.equal(codes, _theirs(chunk, self.code)[0]):
                    return False
        return True


def _table(code: Tensor) -> Tensor:
    """bitsandbytes' codes of 65,536 values from -1 to 1: [65,536] uint8."""
    values = torch.arange(CODES, dtype=torch.float64).div_(HALF).sub_(1.0).float()
    return _theirs(_among_ones(values), code)[0].view(-1, BLOCK)[:, BLOCK // 2 :].reshape(-1)


def _among_ones(values: Tensor) -> Tensor:
    """Put values [65,536] into the second halves of blocks whose first halves are 1, so that the scales are 1: [131,072]."""
    blocks = torch.ones(2 * CODES // BLOCK, BLOCK)
    blocks[:, BLOCK // 2 :] = values.view(-1, BLOCK // 2)
    return blocks.view(-1)


def _theirs(values: Tensor, code: Tensor) -> tuple[Tensor, Tensor]:
    """Codes and scales by bitsandbytes' own kernel."""
    codes, scales = torch.ops.bitsandbytes.quantize_blockwise(values, code, BLOCK)
    return codes, scales


def _dequantise() -> Callable[..., None] | None:
    """bitsandbytes' kernel, which writes into a given tensor: its operation allocates one per call, and takes twice as long."""
    from bitsandbytes import cextension  # imported here: only 8-bit training needs it

    kernel = getattr(cextension.lib, "cdequantize_blockwise_cpu_fp32", None)
    return kernel if hasattr(kernel, "argtypes") else None  # otherwise it only raises: the library could not be loaded
