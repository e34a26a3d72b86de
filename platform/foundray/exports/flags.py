"""Check of a run's `model:` flags against a stock class."""

from __future__ import annotations

from typing import Any

from foundray.exports.forms import NoStockClass
from foundray.spec import ModelConfig


def check_flags(stock_class: str, shape: ModelConfig, **flags: Any) -> None:
    """Check `flags`: by field, the accepted value or a tuple of them. Raises NoStockClass, which names these."""
    wrong = {field: accepted for field, accepted in flags.items() if getattr(shape, field) not in _as_tuple(accepted)}
    if wrong:
        needs = ", ".join(f"{field}: {' or '.join(map(_yaml, _as_tuple(accepted)))}" for field, accepted in wrong.items())
        has = ", ".join(f"{field}: {_yaml(getattr(shape, field))}" for field in wrong)
        raise NoStockClass(f"{stock_class} needs model: {{{needs}}}, and the run has {has}")


def _as_tuple(accepted: Any) -> tuple[Any, ...]:
    return accepted if isinstance(accepted, tuple) else (accepted,)


def _yaml(value: Any) -> str:
    return {None: "null", True: "true", False: "false"}.get(value, str(value))
