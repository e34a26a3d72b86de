"""Base class of the spec's sections."""

from __future__ import annotations

import difflib
from dataclasses import dataclass

from pydantic import BaseModel, ConfigDict

from foundray.errors import InputError
from foundray.storage import check_no_secret


@dataclass(frozen=True)
class Filled:
    """Marks a field that need not be given: `filling` derives it from the others."""

    words: str
    """What it becomes, for the documentation."""


class Section(BaseModel):
    """A part of the spec. Refuses unknown fields, and is immutable."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


def without_secret(value: str) -> str:
    """Return a value that is stored and shown. Raises ValueError if it is a URL that holds a secret."""
    try:
        check_no_secret(value)
    except InputError as error:
        raise ValueError(str(error)) from None
    return value


def nearest(name: str, known: list[str]) -> str:
    """` (did you mean 'x'?)` with the nearest known name, or empty if none is near."""
    near = difflib.get_close_matches(name, known, 1, 0.5)
    return f" (did you mean {near[0]!r}?)" if near else ""
