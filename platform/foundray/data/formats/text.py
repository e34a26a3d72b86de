"""Plain text and source code: a document is a file, a line or a paragraph."""

from __future__ import annotations

from collections.abc import Iterator

import pyarrow as pa

from foundray.contract import Unreadable
from foundray.data.formats.lines import content, is_whole, line_parts
from foundray.data.formats.row import BadRow, Document, Gathering, decode
from foundray.spec import SourceConfig


def read(handle: pa.NativeFile, path: str, source: SourceConfig) -> Iterator[Document | BadRow]:
    """A file is kept byte for byte, but for a byte order mark, and lost as a whole; lines and paragraphs are lost one by one.

    White space alone is no document: a file of it counts as empty, and lines of it separate paragraphs.
    """
    return _file(handle, path) if source.documents == "file" else _blocks(handle, path, source.documents)


def _file(handle: pa.NativeFile, path: str) -> Iterator[Document | BadRow]:
    gathering, remarks = Gathering("byte 0", lambda at: f"byte {at}", "file"), list[BadRow]()
    for part in content(handle, path):
        if isinstance(part, bytes):
            gathering.add(part)
        elif is_whole(part):
            remarks.append(BadRow.of(part, "byte 0"))
        else:
            yield BadRow("byte 0", str(part), 1, "file")
            return
    yield gathering.document()
    yield from remarks


def _blocks(handle: pa.NativeFile, path: str, unit: str) -> Iterator[Document | BadRow]:
    """Lines, or blocks of lines between blank ones. Damage ends a block, and costs the line that it is in."""
    block: Gathering | None = None
    within = False  # a line that has begun
    for number, part, ends in line_parts(handle, path):
        if isinstance(part, Unreadable):
            yield BadRow.of(part, f"line {number}")
            if is_whole(part):
                continue
            if block is not None and not within:
                yield block.document()
            block, within = None, False
            continue
        blank = ends and not within and not part.strip()
        if unit == "line" and ends and not within:  # most of them
            if not blank:
                yield decode(part, f"line {number}", unit=unit)
            continue
        if not blank:
            if block is None:
                block = Gathering(f"line {number}", unit=unit)
            elif not within:
                block.add(b"\n")
            block.add(part)
            within = not ends
        if block is not None and ends and (blank or unit == "line"):
            yield block.document()
            block = None
    if block is not None:
        yield block.document()
