"""Parquet: a document is a column of a row."""

from __future__ import annotations

from collections.abc import Iterator

import pyarrow as pa
import pyarrow.parquet as pq

from foundray.data.formats.row import BadRow, Document, text_of
from foundray.spec import Source


def read(handle: pa.NativeFile, path: str, source: Source) -> Iterator[Document | BadRow]:
    try:
        table = pq.ParquetFile(handle)
        if source.field not in table.schema_arrow.names:
            yield BadRow("row 0", f"no column {source.field!r}; there are: {', '.join(table.schema_arrow.names)}")
            return
        number = 0
        for batch in table.iter_batches(batch_size=1024, columns=[source.field]):
            for value in batch.column(0).to_pylist():
                yield text_of(value, f"row {number}", source.field)
                number += 1
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        yield BadRow("row 0", f"not readable as Parquet: {error}")
