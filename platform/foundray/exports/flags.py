"""Whether a run's network is of a stock class's kind, by the flags of `model:`."""

from __future__ import annotations

from typing import Any

from foundray.exports.forms import NoStockClass
from foundray.spec import ModelConfig


def check_flags(named: str, shape: ModelConfig, **flags: Any) -> None:
    """`flags`: by field, the one value that will do, or a tuple of them. Raises NoStockClass, which says what would do."""
    unlike = {field: right for field, right in flags.items() if getattr(shape, field) not in _several(right)}
    if unlike:
        needs = ", ".join(f"{field}: {' or '.join(map(_yaml, _several(right)))}" for field, right in unlike.items())
        has = ", ".join(f"{field}: {_yaml(getattr(shape, field))}" for field in unlike)
        raise NoStockClass(f"{named} needs model: {{{needs}}}, and the run has {has}")


def _several(right: Any) -> tuple[Any, ...]:
    return right if isinstance(right, tuple) else (right,)


def _yaml(value: Any) -> str:
    return {None: "null", True: "true", False: "false"}.get(value, str(value))
