"""JSON Lines: a document is one field of the object in a line. For files with other JSON see `json_elements`."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator
from typing import Any

import pyarrow as pa

from foundray.contract import Unreadable
from foundray.data.formats import json_elements
from foundray.data.formats.lines import content, merge_repeats, or_empty, split_lines
from foundray.data.formats.not_text import not_utf8
from foundray.data.formats.row import BOM, BadRow, Document, empty, text_of
from foundray.spec import SourceConfig

NUL = "holds NUL bytes, which JSON cannot"
FIELDS_SHOWN = 10
"""Most fields that a reason names."""


def read(handle: pa.NativeFile, path: str, source: SourceConfig) -> Iterator[Document | BadRow]:
    """One row per line; or per element, if the file starts with an array or with an object over several lines."""
    whole, in_elements = _open(handle, path)
    yield from or_empty(_elements(whole, source.field) if in_elements else merge_repeats(_rows(whole, source.field), NUL))


def _elements(parts: Iterator[bytes | Unreadable], field: str) -> Iterator[Document | BadRow]:
    for number, value in json_elements.elements(parts, field):
        where = f"element {number}"
        yield BadRow.of(value, where) if isinstance(value, Unreadable) else _field(value, where, field)


def _rows(parts: Iterator[bytes | Unreadable], field: str) -> Iterator[Document | BadRow]:
    for number, line in split_lines(parts):
        if isinstance(line, BadRow):
            yield line
        else:
            found = row(line, f"line {number}", field)
            del line  # so that it can be freed while the row is used
            yield from found


def row(line: bytes, where: str, field: str) -> list[Document | BadRow]:
    """The documents in one line. There are several objects if the line break between them is missing."""
    if b"\0" in line:
        return [BadRow(where, NUL)]
    try:
        text = line.removeprefix(BOM).decode("utf-8")
    except UnicodeDecodeError as error:
        return [BadRow(where, not_utf8(line, error.start, error.start))]
    try:
        return [_field(json_elements.value_of(text, field), where, field)]
    except json.JSONDecodeError as error:
        if not text.strip():
            return [empty(where)]
        if several := json_elements.adjacent_objects(text):
            return [_field(value, where, field) for value in several]
        return [BadRow(where, f"not JSON: {error}")]
    except Unreadable as error:
        return [BadRow.of(error, where)]


def _field(row: Any, where: str, field: str) -> Document | BadRow:
    if not isinstance(row, dict):
        return BadRow(where, f"not a JSON object but {json_elements.json_type(row)}")
    if field not in row:
        names = [json.dumps(name, ensure_ascii=False)[1:-1][:40] for name in itertools.islice(row, FIELDS_SHOWN)]
        more = f" and {len(row) - FIELDS_SHOWN} more" if len(row) > FIELDS_SHOWN else ""
        return BadRow(
            where, f"no field {field!r}; it has: {', '.join(names)}{more}" if row else f"no field {field!r}; it is {{}}"
        )
    if row[field] is not None and not isinstance(row[field], str):
        return BadRow(where, f"{field!r} is {json_elements.json_type(row[field])}, not text")
    return text_of(row[field], where, field)


def column(handle: pa.NativeFile, path: str, name: str, source: SourceConfig) -> Iterator[tuple[str, Any]]:
    """(position, value of a field) of each object that can be read. Positions are those of `read`."""
    parts, in_elements = _open(handle, path)
    if in_elements:
        found = ((f"element {number}", [element]) for number, element in json_elements.elements(parts, name))
    else:
        found = ((f"line {number}", _objects(line)) for number, line in split_lines(parts) if isinstance(line, bytes))
    for position, objects in found:
        values = [one.get(name) for one in objects if isinstance(one, dict)]
        if values and all(value == values[0] for value in values):  # else it is not clear which document has which value
            yield position, values[0]


def _objects(line: bytes) -> list[Any]:
    """The values in a line: none if it cannot be read, several objects if the line break between them is missing."""
    text = line.decode("utf-8", "replace").removeprefix("\ufeff")
    try:
        return [json_elements.value_of(text)]
    except json.JSONDecodeError:
        return json_elements.adjacent_objects(text)
    except Unreadable:
        return []


def _open(handle: pa.NativeFile, path: str) -> tuple[Iterator[bytes | Unreadable], bool]:
    """(content of a file, whether it is read element by element instead of line by line)."""
    parts = content(handle, path)
    first = next(parts, b"")
    return itertools.chain([first], parts), isinstance(first, bytes) and json_elements.is_in_elements(first)
