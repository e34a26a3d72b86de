"""JSON Lines: a document is a field of the object in a line."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pyarrow as pa

from foundray.data.formats.lines import numbered_lines
from foundray.data.formats.row import BadRow, Document, empty, text_of
from foundray.spec import Source


def read(handle: pa.NativeFile, path: str, source: Source) -> Iterator[Document | BadRow]:
    for number, line in numbered_lines(handle, path):
        if isinstance(line, BadRow):
            yield line
            break
        yield row(line, f"line {number}", source.field)


def row(content: bytes, where: str, field: str) -> Document | BadRow:
    try:
        value = json.loads(content.decode("utf-8"))
    except UnicodeDecodeError as error:
        return BadRow(where, f"not UTF-8 (byte {error.start} of the line)")
    except (json.JSONDecodeError, RecursionError) as error:
        return BadRow(where, f"not JSON: {error}") if content.strip() else empty(where)
    return _field(value, where, field)


def _field(row: Any, where: str, field: str) -> Document | BadRow:
    if not isinstance(row, dict):
        return BadRow(where, "not a JSON object")
    if field not in row:
        return BadRow(where, f"no field {field!r}")
    return text_of(row[field], where, field)
