"""Results as tables in a notebook."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from html import escape
from typing import Any

LONGEST = 300
"""Characters shown of a value."""


class Shown:
    """Base class of results: a notebook shows their fields as a table. Values inherit its colours, light or dark."""

    def _repr_html_(self) -> str:
        return table(type(self).__name__, facts_of(self))


def facts_of(result: object) -> dict[str, Any]:
    """The public fields of a result, without those that are empty."""
    names = [field.name for field in fields(result)] if is_dataclass(result) else list(vars(result))
    found = {name: getattr(result, name) for name in names if not name.startswith("_")}
    return {name: value for name, value in found.items() if value is not None and not (_is_many(value) and len(value) == 0)}


def table(title: str, rows: Mapping[str, Any]) -> str:
    """An HTML table of names and values; nothing in them is read as HTML."""
    cell = 'style="text-align:left;vertical-align:top;padding:2px 12px 2px 0"'
    lines = [
        f"<tr><th {cell} scope='row'>{escape(name.replace('_', ' '))}</th><td {cell}>{escape(_text(value))}</td></tr>"
        for name, value in rows.items()
    ]
    return f"<table><caption style='text-align:left'><b>{escape(title)}</b></caption>{''.join(lines)}</table>"


def _text(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return f"{value:,.6g}"
    if isinstance(value, Mapping):
        text = ", ".join(f"{name}: {_text(part)}" for name, part in value.items())
    elif _is_many(value):
        text = ", ".join(_text(part) for part in value)
    else:
        text = str(value)
    return text if len(text) <= LONGEST else f"{text[:LONGEST]}…"


def _is_many(value: Any) -> bool:
    return isinstance(value, list | tuple | dict | set)
