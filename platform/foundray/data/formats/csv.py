"""CSV and its variants (tabs, semicolons, bars): a document is one column of a row."""

from __future__ import annotations

from collections.abc import Iterator

import pyarrow as pa

from foundray.contract import Unreadable
from foundray.contract.csv_rows import DELIMITERS, CsvRows, raw
from foundray.data.files.compression import decompressed
from foundray.data.files.names import bare
from foundray.data.formats.row import BadRow, Document, decode, text_of
from foundray.spec import SourceConfig


def read(handle: pa.NativeFile, path: str, source: SourceConfig) -> Iterator[Document | BadRow]:
    try:
        for line, value in table(handle, path, source.field).column(source.field):
            where = f"line {line}"
            if isinstance(value, Unreadable):
                yield BadRow.of(value, where)
            else:
                yield decode(content, where) if (content := raw(value)) else text_of(value, where, source.field)
    except Unreadable as error:
        yield BadRow.of(error, "line 1")


def column(handle: pa.NativeFile, path: str, name: str, source: SourceConfig) -> Iterator[tuple[str, str]]:
    """(position, value of a column) of each row that can be read. Raises Unreadable."""
    # The source's own column fixes the delimiter, as it does for the documents.
    for line, value in table(handle, path, source.field).column(name):
        if isinstance(value, str):
            yield f"line {line}", value


def table(handle: pa.NativeFile, path: str, field: str) -> CsvRows:
    """A file's rows. The delimiter is the first by which the header has `field`; .tsv tries tabs first. Raises Unreadable."""
    tabs_first = "".join(sorted(DELIMITERS, key=lambda delimiter: delimiter != "\t"))
    return CsvRows(decompressed(handle, path), [field], tabs_first if bare(path).endswith((".tsv", ".tab")) else DELIMITERS)
