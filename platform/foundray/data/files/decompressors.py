"""Decompressors of one member of a compressed file: its content part by part, and the offset at which damage shows."""

from __future__ import annotations

import bz2
import collections
import functools
import lzma
import re
import zlib
from collections.abc import Callable, Iterator
from typing import Any

import pyarrow as pa

from foundray.data.files.ahead import LookAhead
from foundray.data.files.frames import BadFrame, Frame, lz4_blocks, zstd_blocks

CHUNK = 2**14
"""Compressed bytes per call of a decompressor, and the most bytes that it returns."""
CUT = "it is cut off"
CHECKSUM_MISMATCH = "its content does not match its checksum"


class Damaged(Exception):
    """A decompressor failed on the compressed bytes from offset `start` on."""

    def __init__(self, reason: str, start: int, all_output: bool = False):
        super().__init__(reason)
        self.start = start
        self.all_output = all_output
        """Whether it returned all content of the bytes before."""


class _GzipDecompressor:
    """zlib's decompressor of one gzip member, with the interface of bz2's and lzma's."""

    def __init__(self) -> None:
        self.inner = zlib.decompressobj(wbits=31)
        self.needs_input = True

    def decompress(self, data: bytes, most: int) -> bytes:
        found = self.inner.decompress(self.inner.unconsumed_tail + data, most)
        self.needs_input = not self.inner.unconsumed_tail and len(found) < most
        return found

    @property
    def eof(self) -> bool:
        return self.inner.eof

    @property
    def unused_data(self) -> bytes:
        return self.inner.unused_data


def _stream_content(
    make: Callable[[], Any], source: LookAhead, bytewise_from: int | None = None, size_before: int = 0
) -> Iterator[bytes]:
    """The content of one member, fed byte by byte from offset `bytewise_from` on. Raises Damaged."""
    decompressor, start = make(), source.at
    while not decompressor.eof:
        data = b""
        if decompressor.needs_input:
            start = source.at
            bytewise = bytewise_from is not None and start >= bytewise_from
            if not (data := source.read(1 if bytewise else CHUNK)):
                raise Damaged(CUT, start, all_output=True)
        try:
            found = decompressor.decompress(data, CHUNK)
        except (zlib.error, lzma.LZMAError, OSError, ValueError, EOFError, MemoryError) as error:
            raise Damaged(_reason(str(error)), start) from None
        if found:
            yield found
    source.push_back(decompressor.unused_data)


def _bzip2_content(source: LookAhead, bytewise_from: int | None = None, size_before: int = 0) -> Iterator[bytes]:
    """The content of one bzip2 stream, one block late: a block's checksum is verified only at its end. Raises Damaged."""
    level = source.peek(4)[3:]
    most = (int(level) if level.isdigit() else 9) * 100_000  # bytes per block, unless it has long runs of one byte
    held, size = collections.deque[bytes](), 0
    try:
        for part in _stream_content(bz2.BZ2Decompressor, source, bytewise_from):
            held.append(part)
            size += len(part)
            while size - len(held[0]) >= most:
                size -= len(held[0])
                yield held.popleft()
    except Damaged as damaged:
        if str(damaged) == CUT:  # no checksum failed, so the output so far is correct
            yield from held
        raise
    yield from held


def _frame_content(
    codec: str,
    blocks: Callable[[LookAhead], Iterator[bytes]],
    source: LookAhead,
    bytewise_from: int | None = None,
    size_before: int = 0,
) -> Iterator[bytes]:
    """The content of one frame, read byte by byte after the first `size_before` bytes. Raises Damaged."""
    frame, given = Frame(source, blocks), 0
    with pa.CompressedInputStream(pa.PythonFile(frame, mode="r"), codec) as stream:
        try:
            while found := stream.read(CHUNK if bytewise_from is None else max(1, min(CHUNK, size_before - given))):
                given += len(found)
                yield found
            frame.finish()
        except (OSError, BadFrame) as error:
            raise Damaged(_reason(frame.bad or str(error)), source.at) from None


def _reason(error: str) -> str:
    """A library's error message in a few words."""
    if "Truncated" in error or "too early" in error:
        return CUT
    if "check" in error.lower():
        return CHECKSUM_MISMATCH
    return f"it is damaged ({re.sub('^Error -?[0-9]+ while decompressing data: ', '', error)})"


MEMBER_READERS: dict[str, Callable[..., Iterator[bytes]]] = {
    "gzip": functools.partial(_stream_content, _GzipDecompressor),
    "bz2": _bzip2_content,
    "xz": functools.partial(_stream_content, functools.partial(lzma.LZMADecompressor, lzma.FORMAT_XZ)),
    "zstd": functools.partial(_frame_content, "zstd", zstd_blocks),
    "lz4": functools.partial(_frame_content, "lz4", lz4_blocks),
}
"""Per compression, a reader of one member's content."""
