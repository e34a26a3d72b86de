"""JSON Lines: a document is a field of the object in a line. Files that hold other JSON than that: see `json_elements`."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator
from typing import Any

import pyarrow as pa

from foundray.contract import Unreadable
from foundray.data.formats import json_elements
from foundray.data.formats.lines import content, in_lines, merged, or_empty
from foundray.data.formats.not_text import not_utf8
from foundray.data.formats.row import MARK, BadRow, Document, empty, text_of
from foundray.spec import SourceConfig

NUL = "holds NUL bytes, which JSON cannot"
NAMED = 10
"""Fields that a reason names."""


def read(handle: pa.NativeFile, path: str, source: SourceConfig) -> Iterator[Document | BadRow]:
    """A row a line; or an element of an array, or of objects over several lines, if that is what the file begins with."""
    parts = content(handle, path)
    first = next(parts, b"")
    whole = itertools.chain([first], parts)
    in_elements = isinstance(first, bytes) and json_elements.begins(first)
    del first, parts  # their memory is free once they are read
    yield from or_empty(_elements(whole, source.field) if in_elements else merged(_rows(whole, source.field), NUL))


def _elements(parts: Iterator[bytes | Unreadable], field: str) -> Iterator[Document | BadRow]:
    for number, value in json_elements.elements(parts, field):
        where = f"element {number}"
        yield BadRow.of(value, where) if isinstance(value, Unreadable) else _field(value, where, field)


def _rows(parts: Iterator[bytes | Unreadable], field: str) -> Iterator[Document | BadRow]:
    for number, line in in_lines(parts):
        if isinstance(line, BadRow):
            yield line
        else:
            found = row(line, f"line {number}", field)
            del line  # its memory is free while the row is used
            yield from found


def row(line: bytes, where: str, field: str) -> list[Document | BadRow]:
    """The documents in one line: of several objects, where the end of the line between them is missing."""
    if b"\0" in line:
        return [BadRow(where, NUL)]
    try:
        text = line.removeprefix(MARK).decode("utf-8")
    except UnicodeDecodeError as error:
        return [BadRow(where, not_utf8(line, error.start, error.start))]
    try:
        return [_field(json_elements.value_of(text, field), where, field)]
    except json.JSONDecodeError as error:
        if not text.strip():
            return [empty(where)]
        if several := json_elements.side_by_side(text):
            return [_field(value, where, field) for value in several]
        return [BadRow(where, f"not JSON: {error}")]
    except Unreadable as error:
        return [BadRow.of(error, where)]


def _field(row: Any, where: str, field: str) -> Document | BadRow:
    if not isinstance(row, dict):
        return BadRow(where, f"not a JSON object but {json_elements.kind(row)}")
    if field not in row:
        names = [json.dumps(name, ensure_ascii=False)[1:-1][:40] for name in itertools.islice(row, NAMED)]
        more = f" and {len(row) - NAMED} more" if len(row) > NAMED else ""
        return BadRow(
            where, f"no field {field!r}; it has: {', '.join(names)}{more}" if row else f"no field {field!r}; it is {{}}"
        )
    if row[field] is not None and not isinstance(row[field], str):
        return BadRow(where, f"{field!r} is {json_elements.kind(row[field])}, not text")
    return text_of(row[field], where, field)
