"""Frames of Zstandard and LZ4: where each ends, so that several in one file, padding, and what else lies behind are seen.

Formats: RFC 8878, section 3.1, and the LZ4 Frame Format Description, version 1.6.
"""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Iterator

from foundray.data.files.ahead import Ahead

SKIPPABLE = re.compile(rb"[\x50-\x5f]\x2a\x4d\x18", re.DOTALL)
"""Starts a frame without content, in both formats."""


class BadFrame(Exception):
    """A frame that breaks off or contradicts itself."""


class Frame(io.RawIOBase):
    """The compressed bytes of one frame, as a file for pyarrow: block by block, so that it fails only in a block's own read."""

    def __init__(self, source: Ahead, blocks: Callable[[Ahead], Iterator[bytes]]):
        self.parts = blocks(source)
        self.rest = b""
        self.bad = ""
        """What ended it, if it has no end of its own."""

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        if not self.rest:
            try:
                self.rest = next(self.parts, b"")
            except BadFrame as error:
                self.bad = str(error)  # the error itself would hold what holds this
        part, self.rest = self.rest[:size], self.rest[size:]
        return part

    def finish(self) -> None:
        """Take what is left of it. Raises BadFrame."""
        for _ in self.parts:
            pass
        if self.bad:
            raise BadFrame(self.bad)


def zstd_blocks(source: Ahead) -> Iterator[bytes]:
    """The parts of a frame of Zstandard, or of one that is skipped. Raises BadFrame."""
    if SKIPPABLE.match(source.peek(4)):
        yield from _skipped(source)
        return
    head = _exactly(source, 5)
    described = head[4]
    single, checksum = described >> 5 & 1, described >> 2 & 1
    yield head + _exactly(source, (not single) + (0, 1, 2, 4)[described & 3] + (single, 2, 4, 8)[described >> 6])
    last = False
    while not last:
        head = _exactly(source, 3)
        block = int.from_bytes(head, "little")
        last, kind, size = bool(block & 1), block >> 1 & 3, block >> 3
        if kind == 3 or size > 2**17:
            raise BadFrame("a block of no known kind")
        yield head + _exactly(source, 1 if kind == 1 else size)
    if checksum:
        yield _exactly(source, 4)


def lz4_blocks(source: Ahead) -> Iterator[bytes]:
    """The parts of a frame of LZ4, or of one that is skipped. Raises BadFrame."""
    if SKIPPABLE.match(source.peek(4)):
        yield from _skipped(source)
        return
    head = _exactly(source, 6)
    flags = head[4]
    if flags >> 6 != 1:
        raise BadFrame("a version that is not known")
    yield head + _exactly(source, 8 * (flags >> 3 & 1) + 4 * (flags & 1) + 1)
    while int.from_bytes(head := _exactly(source, 4), "little"):
        size = int.from_bytes(head, "little") & 0x7FFFFFFF
        if size > 2**22 + 16:
            raise BadFrame("a block that is too large")
        yield head + _exactly(source, size + 4 * (flags >> 4 & 1))
    yield head + _exactly(source, 4 * (flags >> 2 & 1))


def _skipped(source: Ahead) -> Iterator[bytes]:
    """Of a frame without content nothing is given."""
    head = _exactly(source, 8)
    size = int.from_bytes(head[4:], "little")
    if source.skip(size) < size:
        raise BadFrame("it ends too early")
    yield from ()


def _exactly(source: Ahead, size: int) -> bytes:
    found = source.read(size)
    if len(found) < size:
        raise BadFrame("it ends too early")
    return found


def xz_blocks(source: Ahead) -> Iterator[tuple[int, int]]:
    """(bytes of content, position) before the first block of an xz stream and behind each, as far as they can be followed.

    Format: The .xz File Format, version 1.2, section 3; the chunks of LZMA2 are as xz-embedded describes them.
    """
    head = source.read(12)
    checked = (0, 4, 4, 4, 8, 8, 8, 16, 16, 16, 32, 32, 32, 64, 64, 64)[head[7] & 15] if len(head) == 12 else 0
    size = 0
    yield size, source.at
    while (first := source.peek(1)) and first[0]:
        source.skip((first[0] + 1) * 4)
        packed = 0
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
        source.skip(-(packed + 1) % 4 + checked)
        yield size, source.at
