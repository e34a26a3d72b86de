"""JSON that every program reads: the standard has no number that is not finite."""

from __future__ import annotations

import json
import math
from typing import Any


def dumps(value: Any) -> str:
    """As JSON; a number that is not finite, such as the loss of a model that diverged, is `null`."""
    return json.dumps(_finite(value), allow_nan=False)


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {name: _finite(part) for name, part in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(part) for part in value]
    return value
