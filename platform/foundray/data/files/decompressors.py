"""Decompressors of one member of a compressed file each: what it holds, part by part, and where its damage shows."""

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

from foundray.data.files.ahead import Ahead
from foundray.data.files.frames import BadFrame, Frame, lz4_blocks, zstd_blocks

FED = 2**14
"""Compressed bytes that a decompressor is fed at a time, and the most that it gives."""
CUT = "it is cut off"
UNMATCHED = "what it holds does not match its checksum"


class Damaged(Exception):
    """A decompressor gives up on what was fed to it from byte `start` on."""

    def __init__(self, reason: str, start: int, all_given: bool = False):
        super().__init__(reason)
        self.start = start
        self.all_given = all_given
        """Whether it gave all that it made of what came before."""


class _Gzip:
    """zlib's decompressor of one member, with the interface of those of bz2 and lzma."""

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


def _fed(make: Callable[[], Any], source: Ahead, careful: int | None = None, sure: int = 0) -> Iterator[bytes]:
    """The content of one member, byte by byte behind `careful`. Raises Damaged."""
    decompressor, start = make(), source.at
    while not decompressor.eof:
        data = b""
        if decompressor.needs_input:
            start = source.at
            few = careful is not None and start >= careful
            if not (data := source.read(1 if few else FED)):
                raise Damaged(CUT, start, all_given=True)
        try:
            found = decompressor.decompress(data, FED)
        except (zlib.error, lzma.LZMAError, OSError, ValueError, EOFError, MemoryError) as error:
            raise Damaged(_said(str(error)), start) from None
        if found:
            yield found
    source.back(decompressor.unused_data)


def _bunzipped(source: Ahead, careful: int | None = None, sure: int = 0) -> Iterator[bytes]:
    """The content of one bzip2 stream but for damaged blocks, whose checksums are tried when all of them came out."""
    level = source.peek(4)[3:]
    most = (int(level) if level.isdigit() else 9) * 100_000  # bytes of a block, unless it has long runs of one byte
    held, size = collections.deque[bytes](), 0
    try:
        for part in _fed(bz2.BZ2Decompressor, source, careful):
            held.append(part)
            size += len(part)
            while size - len(held[0]) >= most:
                size -= len(held[0])
                yield held.popleft()
    except Damaged as damaged:
        if str(damaged) == CUT:  # what came out of a block before is right
            yield from held
        raise
    yield from held


def _framed(
    codec: str, blocks: Callable[[Ahead], Iterator[bytes]], source: Ahead, careful: int | None = None, sure: int = 0
) -> Iterator[bytes]:
    """The content of one frame, byte by byte behind the first `sure` ones. Raises Damaged."""
    frame, given = Frame(source, blocks), 0
    with pa.CompressedInputStream(pa.PythonFile(frame, mode="r"), codec) as stream:
        try:
            while found := stream.read(FED if careful is None else max(1, min(FED, sure - given))):
                given += len(found)
                yield found
            frame.finish()
        except (OSError, BadFrame) as error:
            raise Damaged(_said(frame.bad or str(error)), source.at) from None


def _said(error: str) -> str:
    """What a library says of damage, in a few words."""
    if "Truncated" in error or "too early" in error:
        return CUT
    if "check" in error.lower():
        return UNMATCHED
    return f"it is damaged ({re.sub('^Error -?[0-9]+ while decompressing data: ', '', error)})"


MEMBERS: dict[str, Callable[..., Iterator[bytes]]] = {
    "gzip": functools.partial(_fed, _Gzip),
    "bz2": _bunzipped,
    "xz": functools.partial(_fed, functools.partial(lzma.LZMADecompressor, lzma.FORMAT_XZ)),
    "zstd": functools.partial(_framed, "zstd", zstd_blocks),
    "lz4": functools.partial(_framed, "lz4", lz4_blocks),
}
