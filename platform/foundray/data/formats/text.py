"""Plain text and source code: a document is a file, a line or a paragraph."""

from __future__ import annotations

from collections.abc import Iterator

import pyarrow as pa

from foundray.data.compression import decompressed
from foundray.data.formats.lines import numbered_lines
from foundray.data.formats.row import BadRow, Document, decode
from foundray.spec import Source


def read(handle: pa.NativeFile, path: str, source: Source) -> Iterator[Document | BadRow]:
    if source.documents == "file":
        try:
            yield decode(decompressed(handle, path).read(), "byte 0", lambda at: f"byte {at}")
        except OSError as error:
            yield BadRow("byte 0", f"the compressed stream is broken: {error}")
        return
    block: list[bytes] = []
    start = 1
    for number, line in numbered_lines(handle, path):
        if isinstance(line, BadRow):
            yield line
            break
        if line.strip():
            start = start if block else number
            block.append(line)
        if block and (source.documents == "line" or not line.strip()):
            yield decode(b"\n".join(block), f"line {start}")
            block = []
    if block:
        yield decode(b"\n".join(block), f"line {start}")
