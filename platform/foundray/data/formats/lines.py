"""Numbered lines of a file, decompressed."""

from __future__ import annotations

from collections.abc import Iterator

import pyarrow as pa

from foundray.data.compression import decompressed
from foundray.data.formats.row import BadRow


def numbered_lines(handle: pa.NativeFile, path: str) -> Iterator[tuple[int, bytes | BadRow]]:
    """Numbered lines without their ends; a compressed stream that breaks off ends in a BadRow."""
    number = 0
    try:
        for number, line in enumerate(decompressed(handle, path), 1):
            yield number, line.rstrip(b"\r\n")
    except OSError as error:
        yield number + 1, BadRow(f"line {number + 1}", f"the compressed stream is broken: {error}")
