"""bitsandbytes' 8-bit updates on a CPU: the same bits in less than half the time.

Its CPU kernels quantise a value x of a block whose largest magnitude is m by a table of 65,536 codes, at the index
(x / m + 1) * 32767.5, rounded half up. Here the same table, filled by those kernels themselves, is looked up by PyTorch's
vectorised operations, and all of an update happens on pieces that fit into a processor's cache. Blocks whose scale is not a
normal number go through bitsandbytes' own kernel.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from foundray.training.flat import BLOCK

PIECE = 2**17
"""Elements that are updated at once: few enough for a cache, enough for the calls to cost little."""
CODES = 2**16
HALF = (CODES - 1) / 2
NORMAL = torch.finfo(torch.float32).tiny


_known: dict[bytes, tuple[Tensor, bool]] = {}
"""By a code's bytes: its table, and whether bitsandbytes' kernel agrees with it."""


def on_cpu(update: Any) -> Callable[..., None]:
    """What can take the place of the `update_step` of bitsandbytes' AdamW8bit or Lion8bit, for parameters on a CPU."""
    tables: dict[str, Quantiser] = {}

    @torch.no_grad()
    def update_step(group: dict[str, Any], parameter: Tensor, *place: int) -> None:
        state = update.state[parameter]
        state["step"] += 1
        for name in ("qmap1", "qmap2"):
            if name in state and name not in tables:
                tables[name] = Quantiser(state[name])
        rule = _adamw if "state2" in state else _lion
        for start in range(0, parameter.numel(), PIECE):
            where = slice(start, start + PIECE)
            blocks = slice(start // BLOCK, (start + PIECE) // BLOCK)
            moments = {
                number: tables[f"qmap{number}"].values(state[f"state{number}"][where], state[f"absmax{number}"][blocks])
                for number in (1, 2)
                if f"state{number}" in state
            }
            rule(parameter[where], parameter.grad[where], group, state["step"], *moments.values())  # type: ignore[index]
            for number, values in moments.items():
                codes, scales = state[f"state{number}"][where], state[f"absmax{number}"][blocks]
                tables[f"qmap{number}"].quantise(values, codes, scales)

    return update_step


def _adamw(weights: Tensor, gradient: Tensor, group: dict[str, Any], step: int, first: Tensor, second: Tensor) -> None:
    """In bitsandbytes' order of operations, as the bits depend on it."""
    beta1, beta2 = group["betas"]
    first.mul_(beta1).add_(gradient, alpha=1.0 - beta1)
    second.mul_(beta2).addcmul_(gradient, gradient, value=1.0 - beta2)
    denominator = second.sqrt().div_(math.sqrt(1.0 - beta2**step)).add_(group["eps"])
    if group["weight_decay"] > 0.0:
        weights.mul_(1.0 - group["lr"] * group["weight_decay"])
    weights.addcdiv_(first, denominator, value=-group["lr"] / (1.0 - beta1**step))


def _lion(weights: Tensor, gradient: Tensor, group: dict[str, Any], step: int, first: Tensor) -> None:
    beta1, beta2 = group["betas"]
    if group["weight_decay"] > 0.0:
        weights.mul_(1.0 - group["lr"] * group["weight_decay"])
    direction = first.mul(beta1).add_(gradient.mul(1.0 - beta1)).sign_()
    weights.add_(direction, alpha=-group["lr"])
    first.mul_(beta2).add_(gradient, alpha=1.0 - beta2)


class Quantiser:
    """Quantises to, and from, the 256 values of one code [256] fp32, in blocks of 256 elements with a scale each."""

    def __init__(self, code: Tensor):
        self.code = code
        self.room = torch.empty(PIECE)
        self.indices = torch.empty(PIECE, dtype=torch.int32)
        if (known := _known.get(key := code.numpy().tobytes())) is None:
            self.table, self.agrees = _table(code), True
            known = _known[key] = self.table, self._agrees()
        self.table, self.agrees = known

    def values(self, codes: Tensor, scales: Tensor) -> Tensor:
        """What codes [N] uint8 with scales [N / 256] stand for: [N] fp32."""
        return torch.ops.bitsandbytes.dequantize_blockwise(codes, scales, self.code, BLOCK, torch.float32)

    def quantise(self, values: Tensor, codes: Tensor, scales: Tensor) -> None:
        """Write the codes and scales of values [N], at most PIECE of them."""
        room, indices = self.room[: len(values)], self.indices[: len(values)]
        torch.abs(values, out=room)
        torch.amax(room.view(-1, BLOCK), 1, out=scales)
        zero = scales == 0
        if not (self.agrees and (((scales >= NORMAL) & scales.isfinite()) | zero).all()):
            for own, found in zip((codes, scales), _theirs(values, self.code), strict=True):
                own.copy_(found)
            return
        torch.mul(values.view(-1, BLOCK), scales.clamp(min=NORMAL).reciprocal_()[:, None], out=room.view(-1, BLOCK))
        indices.copy_(room.add_(1.0).mul_(HALF).add_(0.5))
        torch.index_select(self.table, 0, indices, out=codes)
        if zero.any():
            codes.view(-1, BLOCK)[zero] = 0

    def _agrees(self) -> bool:
        """Whether bitsandbytes' kernel, as built for this processor, rounds as this does: at every boundary of the table."""
        boundary = torch.arange(CODES, dtype=torch.float64).add_(0.5).div_(HALF).sub_(1.0).float()
        boundary[-1] = 1.0
        for towards in (-2.0, 2.0):
            values = _among_ones(torch.nextafter(boundary, torch.tensor(towards)).clamp(-1.0, 1.0))
            codes, scales = torch.empty(len(values), dtype=torch.uint8), torch.empty(len(values) // BLOCK)
            self.quantise(values, codes, scales)
            if not torch.equal(codes, _theirs(values, self.code)[0]):
                return False
        return True


def _table(code: Tensor) -> Tensor:
    """The code that bitsandbytes' kernel gives to each of 65,536 values from -1 to 1: [65,536] uint8."""
    values = torch.arange(CODES, dtype=torch.float64).div_(HALF).sub_(1.0).float()
    return _theirs(_among_ones(values), code)[0].view(-1, BLOCK)[:, BLOCK // 2 :].reshape(-1)


def _among_ones(values: Tensor) -> Tensor:
    """Values [65,536] in the second halves of blocks whose first halves are 1, which makes the scales 1: [131,072]."""
    blocks = torch.ones(2 * CODES // BLOCK, BLOCK)
    blocks[:, BLOCK // 2 :] = values.view(-1, BLOCK // 2)
    return blocks.view(-1)


def _theirs(values: Tensor, code: Tensor) -> tuple[Tensor, Tensor]:
    codes, scales = torch.ops.bitsandbytes.quantize_blockwise(values, code, BLOCK)
    return codes, scales
