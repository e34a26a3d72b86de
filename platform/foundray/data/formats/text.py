"""Plain text and source code: a document is a file, a line or a paragraph."""

from __future__ import annotations

from collections.abc import Iterator

import pyarrow as pa

from foundray.contract import Unreadable
from foundray.data.formats.lines import content, is_whole, line_parts
from foundray.data.formats.row import BadRow, Document, DocumentBuilder, decode
from foundray.spec import SourceConfig


def read(handle: pa.NativeFile, path: str, source: SourceConfig) -> Iterator[Document | BadRow]:
    """The documents of a text file, by the source's `documents`: the file, its lines or its paragraphs.

    A file is kept byte for byte except for a byte order mark, and is lost as a whole; lines and paragraphs are lost one by
    one. White space alone is no document: a file of it is empty, and lines of it separate paragraphs.
    """
    return _file(handle, path) if source.documents == "file" else _blocks(handle, path, source.documents)


def _file(handle: pa.NativeFile, path: str) -> Iterator[Document | BadRow]:
    builder, notes = DocumentBuilder("byte 0", lambda at: f"byte {at}", "file"), list[BadRow]()
    for part in content(handle, path):
        if isinstance(part, bytes):
            builder.add(part)
        elif is_whole(part):
            notes.append(BadRow.of(part, "byte 0"))
        else:
            yield BadRow("byte 0", str(part), 1, "file")
            return
    yield builder.document()
    yield from notes


def _blocks(handle: pa.NativeFile, path: str, unit: str) -> Iterator[Document | BadRow]:
    """Lines, or blocks of lines between blank ones. Damage ends a block and costs the line that it hits."""
    block: DocumentBuilder | None = None
    within = False  # whether the next part continues a line
    for number, part, ends in line_parts(handle, path):
        # Damage: the block ends before it, and is lost if it ends inside a line.
        if isinstance(part, Unreadable):
            yield BadRow.of(part, f"line {number}")
            if is_whole(part):
                continue
            if block is not None and not within:
                yield block.document()
            block, within = None, False
            continue
        # A short line is a document by itself, without a builder.
        blank = ends and not within and not part.strip()
        if unit == "line" and ends and not within:
            if not blank:
                yield decode(part, f"line {number}", unit=unit)
            continue
        # Other parts are added to the block, which ends at a blank line, or at the line's own end.
        if not blank:
            if block is None:
                block = DocumentBuilder(f"line {number}", unit=unit)
            elif not within:
                block.add(b"\n")
            block.add(part)
            within = not ends
        if block is not None and ends and (blank or unit == "line"):
            yield block.document()
            block = None
    if block is not None:
        yield block.document()
