"""The kinds of optimizers, one row each. Nothing here needs torch.

`optimizer.kind` in the spec names the same kinds; a test compares the two.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from foundray.errors import InputError
from foundray.training.step.blocks import BLOCK

MODULES = "foundray.training.step.optimizers"


@dataclass(frozen=True)
class OptimizerKind:
    title: str
    """Its name for people."""
    maker: str
    """`module:function`, imported when a worker needs it; see `shard.Maker`."""
    state: Mapping[str, tuple[str, int]]
    """Each state tensor's torch dtype, and its elements per block."""


KINDS: Mapping[str, OptimizerKind] = {
    "adamw8bit": OptimizerKind(
        title="8-bit AdamW",
        maker=f"{MODULES}.eight_bit:adamw",
        state={
            "state1": ("uint8", BLOCK),
            "state2": ("uint8", BLOCK),
            "absmax1": ("float32", 1),
            "absmax2": ("float32", 1),
        },
    ),
    "adamw": OptimizerKind(
        title="AdamW",
        maker=f"{MODULES}.fused_adamw:adamw",
        state={"exp_avg": ("float32", BLOCK), "exp_avg_sq": ("float32", BLOCK)},
    ),
    "lion8bit": OptimizerKind(
        title="8-bit Lion",
        maker=f"{MODULES}.eight_bit:lion",
        state={"state1": ("uint8", BLOCK), "absmax1": ("float32", 1)},
    ),
}


def optimizer_kind(name: str) -> OptimizerKind:
    """Look up a kind by its name in the spec. Raises InputError for an unknown one."""
    if name not in KINDS:
        raise InputError(f"optimizer.kind: there is no optimizer {name!r}; the kinds are {', '.join(KINDS)}")
    return KINDS[name]
