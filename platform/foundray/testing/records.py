"""Records as a run writes them: events, and steps."""

from __future__ import annotations

from types import NoneType
from typing import Any, Literal, get_args, get_origin

from foundray.records.schema import EVENTS
from foundray.runs.run import event

BEGAN = 1_800_000_000.0
"""The time of second 0, in seconds since 1970."""


def event_at(second: float, name: str, **fields: Any) -> dict[str, Any]:
    """The event `name` at a second of the run, with an example value for each required field that is not given."""
    return {"time": BEGAN + second, **untimed_event(name, **fields)}


def untimed_event(name: str, **fields: Any) -> dict[str, Any]:
    """The event without its time, as it is handed to a recorder."""
    needed = EVENTS[name].model_fields.items() if name in EVENTS else ()
    rest = {key: example_of(info.annotation) for key, info in needed if info.is_required() and key not in ("time", "event")}
    return event(name, **rest | fields)


def example_of(annotation: Any) -> Any:
    """A value that JSON can hold for a field of this type."""
    origin, parts = get_origin(annotation) or annotation, get_args(annotation)
    if origin is Literal:
        return parts[0]
    if origin is tuple:
        return [] if Ellipsis in parts else [example_of(part) for part in parts]
    plain = {int: 1, float: 1.0, str: "x", bool: True, list: [], dict: {}}
    return plain[origin] if origin in plain else example_of(next(part for part in parts if part is not NoneType))


def step_records(first: int, last: int, since: float, seconds: float = 1.0, **fields: Any) -> list[dict[str, Any]]:
    """Records of the steps `first` to `last`, each `seconds` long; the first begins at second `since`."""
    return [
        {
            "time": BEGAN + since + seconds * index, "step": step, "tokens": 320 * step, "loss": 2 + 4 / step, "grad_norm": 1.0,
            "lr": 4e-3, "step_s": seconds, "data_wait_s": 0.01, "copy_s": 0.0, "tokens_per_s": 320 / seconds, "workers": 3,
            "takers": [[0, 2], [1, 2], [2, 1]], "skipped": [], "spike": False, "data": "00000000", "passed_over": 0, **fields,
        }
        for index, step in enumerate(range(first, last + 1), 1)
    ]  # fmt: skip
