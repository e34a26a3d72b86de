"""Standard JSON, which has no NaN or infinity."""

from __future__ import annotations

import json
import math
from typing import Any


def dumps(value: Any) -> str:
    """Dump a value as JSON. A number that is not finite, such as the loss of a diverged model, becomes `null`."""
    return json.dumps(_finite(value), allow_nan=False)


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {name: _finite(part) for name, part in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(part) for part in value]
    return value
