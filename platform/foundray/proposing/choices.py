"""What was found in the data, as far as a spec depends on it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Choice:
    """The part of a spec that the data decides."""

    modality: dict[str, Any]
    """Fields of `data.modality`; empty for text."""
    sources: list[dict[str, Any]]
    objective: dict[str, Any]
    units: float
    """Tokens, or units of values, in the data: an estimate."""
    found: list[str]
    """Sentences about the data."""
    tokenizer: dict[str, Any] | None = None
    vocabulary: int = 0
    """Ids of the tokenizer; 0 for values."""
    width: int = 0
    """Values per unit; 0 for ids."""
    context: int | None = None
    """Units per sample, if the data decides it; None if the model's size does."""
    model: dict[str, Any] = field(default_factory=dict)
    """Other fields of the model."""
    samples: float | None = None
    """Samples in the data, for values."""
    notes: dict[str, str] = field(default_factory=dict)
    """Comments by field."""
    then: str = ""
    """A command that shows what was learned, with `{name}` for the run."""
