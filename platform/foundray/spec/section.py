"""What every section of a spec is like."""

from __future__ import annotations

import difflib

from pydantic import BaseModel, ConfigDict


class Section(BaseModel):
    """A part of the spec: unknown fields are refused, and nothing changes after loading."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


def nearest(name: str, known: list[str]) -> str:
    """` (did you mean 'x'?)`, of the known name that is nearest, if one is near."""
    near = difflib.get_close_matches(name, known, 1, 0.5)
    return f" (did you mean {near[0]!r}?)" if near else ""
