"""WAV files: chunks, each with a name and a size; the `data` chunk has the samples."""

from __future__ import annotations

import struct
from collections.abc import Iterator


def chunks(content: bytes) -> Iterator[tuple[bytes, int, int]]:
    """Yield (name, offset of content, stated size) of each chunk, at even offsets; bytes that are not chunks appear as such."""
    number, at = struct.Struct("<I" if content.startswith(b"RIFF") else ">I"), 12
    while at + 8 <= len(content):
        name, (size,) = content[at : at + 4], number.unpack_from(content, at + 4)
        yield name, at + 8, size
        at += 8 + size + size % 2


def missing(content: bytes) -> str:
    """Clause about missing samples; empty if none are missing."""
    for name, at, size in chunks(content):
        if name == b"data":
            held = len(content) - at
            return f"its header promises {size} bytes of samples, and it has {held}" if size > held else ""
    return ""


def trailing(content: bytes) -> int:
    """Number of bytes after the samples that are in no chunk, without trailing zeros."""
    end, heard = 12, False
    for name, at, size in chunks(content):
        if heard and (at + size > len(content) or not name.isascii() or not name.decode().isprintable()):
            break
        heard, end = heard or name == b"data", at + size + size % 2
    return len(content[end:].rstrip(b"\0")) if heard else 0
