"""What all lines of the logs have."""

from __future__ import annotations

from typing import Any, ClassVar

from pydantic import BaseModel, ConfigDict

from foundray.records.traits import Trait


class Line(BaseModel):
    model_config = ConfigDict(extra="forbid")

    time: float
    """Seconds since the epoch, by the driver's clock, which does not go back."""


class Event(Line):
    traits: ClassVar[Trait] = Trait.NONE
    # Values for fields that the first versions did not record.
    defaults: ClassVar[dict[str, Any]] = {}
