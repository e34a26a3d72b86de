"""The registry of optimizers: one row per kind, which the spec, the workers and the memory estimate share.

A maker is named, not imported: nothing here needs torch.
"""

from __future__ import annotations

import pkgutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class OptimizerKind:
    """How one kind of optimizer is made, and the state that it keeps."""

    name: str
    """The value of `optimizer.kind`."""
    title: str
    """Its name for people."""
    about: str
    """The kind in the spec's documentation."""
    maker: str
    """`module:function` in `foundray.training.step.optimizers`; see `shard.Maker`."""
    per_element: Mapping[str, str]
    """State tensors with a value per parameter: their torch dtypes by name."""
    per_block: Mapping[str, str] = field(default_factory=dict)
    """State tensors with a value per block of parameters."""

    def function(self) -> Callable[..., Any]:
        """The maker."""
        found: Callable[..., Any] = pkgutil.resolve_name(f"foundray.training.step.optimizers.{self.maker}")
        return found


_ROWS = (
    OptimizerKind(
        "adamw8bit", "8-bit AdamW", "bitsandbytes' 8-bit AdamW", "eight_bit:adamw",
        per_element={"state1": "uint8", "state2": "uint8"}, per_block={"absmax1": "float32", "absmax2": "float32"},
    ),
    OptimizerKind(
        "adamw", "AdamW", "torch's fused 32-bit AdamW", "fused_adamw:adamw",
        per_element={"exp_avg": "float32", "exp_avg_sq": "float32"},
    ),
    OptimizerKind(
        "lion8bit", "8-bit Lion", "bitsandbytes' 8-bit Lion", "eight_bit:lion",
        per_element={"state1": "uint8"}, per_block={"absmax1": "float32"},
    ),
)  # fmt: skip

KINDS = {row.name: row for row in _ROWS}
