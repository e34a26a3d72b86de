"""Base class of the spec's sections."""

from __future__ import annotations

import difflib
from dataclasses import dataclass

from pydantic import BaseModel, ConfigDict


@dataclass(frozen=True)
class Filled:
    """Marks a field that need not be given: `filling` derives it from the others."""

    words: str
    """What it becomes, for the documentation."""


class Section(BaseModel):
    """A part of the spec. Refuses unknown fields, and is immutable."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


def nearest(name: str, known: list[str]) -> str:
    """` (did you mean 'x'?)` with the nearest known name, or empty if none is near."""
    near = difflib.get_close_matches(name, known, 1, 0.5)
    return f" (did you mean {near[0]!r}?)" if near else ""
