"""Frames of Zstandard and LZ4, and blocks of xz: where each ends, so that what follows in the file can be read, too.

Formats: RFC 8878, section 3.1, and the LZ4 Frame Format Description, version 1.6.
"""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Iterator

from foundray.data.files.ahead import LookAhead

SKIPPABLE = re.compile(rb"[\x50-\x5f]\x2a\x4d\x18", re.DOTALL)
"""The start of a skippable frame, which has no content, in both formats."""


class BadFrame(Exception):
    """A frame that is cut off or inconsistent."""


class Frame(io.RawIOBase):
    """The compressed bytes of one frame, as a file for pyarrow: a read returns one block, so that it fails by that alone."""

    def __init__(self, source: LookAhead, blocks: Callable[[LookAhead], Iterator[bytes]]):
        self.parts = blocks(source)
        self.rest = b""
        self.bad = ""
        """Why the frame ended early; empty if it did not."""

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        if not self.rest:
            try:
                self.rest = next(self.parts, b"")
            except BadFrame as error:
                self.bad = str(error)  # the error itself would form a reference cycle
        part, self.rest = self.rest[:size], self.rest[size:]
        return part

    def finish(self) -> None:
        """Take the rest of the frame. Raises BadFrame."""
        for _ in self.parts:
            pass
        if self.bad:
            raise BadFrame(self.bad)


def zstd_blocks(source: LookAhead) -> Iterator[bytes]:
    """The parts of a Zstandard frame; none for a skippable one. Raises BadFrame."""
    if SKIPPABLE.match(source.peek(4)):
        yield from _skipped(source)
        return
    # The header: magic, descriptor, then window, dictionary and content size as the descriptor says.
    head = _exactly(source, 5)
    descriptor = head[4]
    single, checksum = descriptor >> 5 & 1, descriptor >> 2 & 1
    yield head + _exactly(source, (not single) + (0, 1, 2, 4)[descriptor & 3] + (single, 2, 4, 8)[descriptor >> 6])
    # Blocks of at most 128 kB; one of kind 1 (RLE) stores one byte.
    last = False
    while not last:
        head = _exactly(source, 3)
        block = int.from_bytes(head, "little")
        last, kind, size = bool(block & 1), block >> 1 & 3, block >> 3
        if kind == 3 or size > 2**17:
            raise BadFrame("a block of an unknown kind")
        yield head + _exactly(source, 1 if kind == 1 else size)
    if checksum:
        yield _exactly(source, 4)


def lz4_blocks(source: LookAhead) -> Iterator[bytes]:
    """The parts of an LZ4 frame; none for a skippable one. Raises BadFrame."""
    if SKIPPABLE.match(source.peek(4)):
        yield from _skipped(source)
        return
    # The header: magic, flags, block size, then content size, dictionary and checksum as the flags say.
    head = _exactly(source, 6)
    flags = head[4]
    if flags >> 6 != 1:
        raise BadFrame("an unknown version")
    yield head + _exactly(source, 8 * (flags >> 3 & 1) + 4 * (flags & 1) + 1)
    # Blocks of at most 4 MiB, up to the end mark; block and content checksums as the flags say.
    while int.from_bytes(head := _exactly(source, 4), "little"):
        size = int.from_bytes(head, "little") & 0x7FFFFFFF
        if size > 2**22 + 16:
            raise BadFrame("a block that is too large")
        yield head + _exactly(source, size + 4 * (flags >> 4 & 1))
    yield head + _exactly(source, 4 * (flags >> 2 & 1))


def _skipped(source: LookAhead) -> Iterator[bytes]:
    """Skip a frame without content."""
    head = _exactly(source, 8)
    size = int.from_bytes(head[4:], "little")
    if source.skip(size) < size:
        raise BadFrame("it ends too early")
    yield from ()


def _exactly(source: LookAhead, size: int) -> bytes:
    found = source.read(size)
    if len(found) < size:
        raise BadFrame("it ends too early")
    return found


def xz_blocks(source: LookAhead) -> Iterator[tuple[int, int]]:
    """(bytes of content, offset) before the first block of an xz stream and after each, as far as they can be followed.

    Format: The .xz File Format, version 1.2, section 3; the chunks of LZMA2 are as xz-embedded describes them.
    """
    head = source.read(12)
    check_size = (0, 4, 4, 4, 8, 8, 8, 16, 16, 16, 32, 32, 32, 64, 64, 64)[head[7] & 15] if len(head) == 12 else 0
    size = 0
    yield size, source.at
    while (first := source.peek(1)) and first[0]:
        source.skip((first[0] + 1) * 4)  # the block's header
        packed = 0
        # LZMA2 chunks: stored ones (control 1 and 2), compressed ones (0x80 and up), and 0 as the end.
        while (head := source.read(1)) and (control := head[0]):
            if control < 3:
                content = stored = int.from_bytes(source.read(2), "big") + 1
                packed += 3 + stored
            elif control < 0x80 or len(sizes := source.read(4)) < 4:
                return
            else:
                content = ((control & 31) << 16) + int.from_bytes(sizes[:2], "big") + 1
                stored = int.from_bytes(sizes[2:], "big") + 1 + (control >= 0xC0)
                packed += 5 + stored
            if source.skip(stored) < stored:
                return
            size += content
        if not head:
            return
        source.skip(-(packed + 1) % 4 + check_size)
        yield size, source.at
