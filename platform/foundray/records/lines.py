"""Encode records as lines of a log; parse lines as records or damage."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from types import NoneType
from typing import Any, Literal, get_args, get_origin

from pydantic import BaseModel
from pydantic_core import from_json

from foundray.records.schema import EVENTS, Step
from foundray.records.schema.line import Line
from foundray.records.schema.workers import TooFew
from foundray.records.takers import runs_of

Record = dict[str, Any]

NEEDED = ("time", "step", "loss", "grad_norm", "lr", "step_s", "data_wait_s", "copy_s", "tokens_per_s", "workers")
"""Fields that a step's record must have; every version has recorded them."""
SECONDS = ("time", "step_s", "data_wait_s", "copy_s", "seconds", "model_s")
"""Fields used as dates and in sums of time."""
LATEST = 4e9
"""Upper limit for seconds; as a time, in the year 2096."""
MOST = 2**53
"""Upper limit for integers: every JSON reader represents it exactly."""
SHOWN = 40
"""Characters shown of a damaged line."""


@dataclass(frozen=True)
class Damage:
    """A line that is not a record."""

    place: str
    line: int
    """Counted from 1."""
    reason: str

    def __str__(self) -> str:
        return f"{self.place} is damaged: line {self.line:,} {self.reason}"


def damage_sentences(damage: Sequence[Damage]) -> list[str]:
    """One sentence per damaged file."""
    files: dict[str, list[Damage]] = {}
    for one in damage:
        files.setdefault(one.place, []).append(one)
    return [str(same[0]) + (f", and {len(same) - 1:,} more lines" if len(same) > 1 else "") for same in files.values()]


def encoded(records: Iterable[Record]) -> bytes:
    return "".join(json.dumps(record, separators=(",", ":")) + "\n" for record in records).encode()


def parsed(line: bytes, log: str) -> Record:
    """Parse a line of the log `events` or `metrics` into a record of today's form. Raises ValueError."""
    try:
        found = from_json(line)
    except ValueError:
        raise ValueError(f"is not a JSON object ({_excerpt(line)})") from None
    if not isinstance(found, dict):
        raise ValueError(f"is not a JSON object ({_excerpt(line)})")
    record: Record = found
    if log == "events":
        known = EVENTS.get(record["event"]) if isinstance(record.get("event"), str) else None
        if known:
            record = known.defaults | record
        _check(record, known or _Event, _needed(known or _Event))
        return record
    _check(record, Step, NEEDED)
    record = {"skipped": [], "spike": False, "passed_over": 0, "lineage": "", **record}
    if "takers" in record:
        record["takers"] = runs_of(record["takers"])
    return record


class _Event(Line):
    """An event of an unknown kind."""

    event: str


def _check(record: Record, model: type[BaseModel], needed: Iterable[str]) -> None:
    """Raise ValueError if a field is missing or has a value that the model does not allow."""
    for name in needed:
        if name not in record:
            raise ValueError(f"has no `{name}`")
    types = _types(model)
    for name, value in record.items():
        if allowed := types.get(name):
            if type(value) is int and not -MOST <= value <= MOST:
                raise ValueError(f"has `{name}` {value!r:.{SHOWN}}, which is too large")
            if type(value) not in allowed:
                raise ValueError(f"has `{name}` {value!r:.{SHOWN}}, which has the wrong type")
    for name, least, most in _limits(model):
        if (value := record.get(name)) is not None and not least <= value <= most:
            raise ValueError(f"has `{name}` {value!r:.{SHOWN}}, which is not between {least:,.0f} and {most:,.0f}")
    for name, kind, length in _lists(model):
        if (listed := record.get(name)) and not _is_list(listed, kind, length):
            raise ValueError(f"has `{name}` {listed!r:.{SHOWN}}, which has wrong elements")


def _is_list(listed: Any, kind: type, length: int | None) -> bool:
    """Whether a list, or a dictionary's values, has this length, if any, and elements of this type; integers must be >= 0."""
    values: list[Any] = list(listed.values() if isinstance(listed, dict) else listed)
    if length not in (None, len(values)) or any(type(value) is not kind for value in values):
        return False
    return kind is not int or all(0 <= value <= MOST for value in values)


@cache
def _needed(model: type[BaseModel]) -> tuple[str, ...]:
    """Required fields of this kind of record."""
    return tuple(name for name, info in model.model_fields.items() if info.is_required())


@cache
def _types(model: type[BaseModel]) -> dict[str, tuple[type, ...]]:
    """Types that each field's value can have in JSON."""
    return {name: _json_types(info.annotation) for name, info in model.model_fields.items()}


@cache
def _limits(model: type[BaseModel]) -> list[tuple[str, float, float]]:
    """(field, least, most) of integers and of seconds, which must be finite."""
    limits: list[tuple[str, float, float]] = []
    for name, kinds in _types(model).items():
        if name in SECONDS:
            limits.append((name, 0 if name == "time" else -LATEST, LATEST))
        elif int in kinds and float not in kinds:
            limits.append((name, int(name == "workers" and model is not TooFew), MOST))
    return limits


@cache
def _lists(model: type[BaseModel]) -> list[tuple[str, type, int | None]]:
    """(field, element type, fixed length or None) of lists and dictionaries."""
    found: list[tuple[str, type, int | None]] = []
    for name, info in model.model_fields.items():
        origin, inner = get_origin(info.annotation), get_args(info.annotation)
        if origin in (list, dict, tuple) and isinstance(inner[-1], type):  # `takers` are checked as runs
            found.append((name, inner[-1], len(inner) if origin is tuple else None))
    return found


def _json_types(annotation: Any) -> tuple[type, ...]:
    if annotation is float:
        return (float, int)
    if annotation in (int, str, bool, NoneType):
        return (annotation,)
    origin = get_origin(annotation)
    if origin is Literal:
        return tuple({type(value) for value in get_args(annotation)})
    if origin in (dict, list):
        return (origin,)
    if origin is tuple:
        return (list,)
    return tuple(kind for part in get_args(annotation) for kind in _json_types(part))


def _excerpt(line: bytes) -> str:
    if not line.strip(b"\0"):
        return f"{len(line):,} zero bytes"
    shown = repr(line[:SHOWN])[2:-1]
    return shown if len(line) <= SHOWN and len(shown) <= SHOWN else shown[:SHOWN] + "…"
