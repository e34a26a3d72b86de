"""CSV: a document is a column of a row."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator

import pyarrow as pa

from foundray.data.compression import decompressed
from foundray.data.formats.row import BadRow, Document, text_of
from foundray.spec import Source


def read(handle: pa.NativeFile, path: str, source: Source) -> Iterator[Document | BadRow]:
    lines = io.TextIOWrapper(decompressed(handle, path), encoding="utf-8", errors="surrogateescape", newline="")
    rows = csv.reader(lines)
    try:
        names = next(rows, [])
        if source.field not in names:
            yield BadRow("line 1", f"no column {source.field!r}; there are: {', '.join(names)}")
            return
        at = names.index(source.field)
        for row in rows:
            where = f"line {rows.line_num}"
            if len(row) == len(names):
                yield text_of(row[at], where, source.field)
            elif row:
                yield BadRow(where, f"{len(row)} fields under a header of {len(names)}")
    except (csv.Error, OSError) as error:
        yield BadRow(f"line {rows.line_num}", f"not readable as CSV: {error}")
