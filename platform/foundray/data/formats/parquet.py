"""Parquet: a document is one column of a row."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pyarrow as pa

from foundray.contract import Unreadable
from foundray.contract.parquet_rows import ParquetRows
from foundray.data.files.compression import decompressed
from foundray.data.files.names import compression
from foundray.data.formats.row import BadRow, Document, text_of
from foundray.spec import SourceConfig


def read(handle: pa.NativeFile, path: str, source: SourceConfig) -> Iterator[Document | BadRow]:
    if not handle.size():
        return
    try:
        for number, row in table(handle, path).rows([source.field]):
            where = f"row {number}"
            if isinstance(row, Unreadable):
                yield BadRow.of(row, where)
            else:
                yield text_of(row[source.field], where, source.field)
    except Unreadable as error:
        yield BadRow.of(error, "row 0")


def column(handle: pa.NativeFile, path: str, name: str, source: SourceConfig) -> Iterator[tuple[str, Any]]:
    """(position, value of a column) of each row that can be read. Raises Unreadable."""
    for number, row in table(handle, path).rows([name]):
        if isinstance(row, dict):
            yield f"row {number}", row[name]


def table(handle: pa.NativeFile, path: str) -> ParquetRows:
    """A file's rows. Raises Unreadable."""
    if compression(path) is None:
        return ParquetRows(handle)
    try:
        return ParquetRows(decompressed(handle, path).read())  # the footer is needed first, so all is decompressed
    except OSError as error:
        raise Unreadable(f"the compressed stream is broken: {error}", unit="file") from None
