"""Compressed files, read as a stream: every member of a file, and padding between them. What is damaged costs itself alone.

A file may hold several compressed streams ("members") one behind another; its content is theirs together. Zero bytes between
and behind them are padding. Anything else there, a member that breaks off, and one whose checksum is wrong, raise `Broken`
once all content before that was read; reading on gives the content of the next member that can be found.
"""

from __future__ import annotations

import bz2
import collections
import functools
import io
import lzma
import re
import zlib
from collections.abc import Callable, Iterator
from typing import Any

import pyarrow as pa

from foundray.contract import Unreadable
from foundray.data.ahead import Ahead
from foundray.data.frames import SKIPPABLE, BadFrame, Frame, lz4_blocks, zstd_blocks
from foundray.data.names import compression

BUFFER = 2**20
FED = 2**14
"""Compressed bytes that a decompressor is fed at a time, and the most that it gives."""
CUT = "it is cut off"
NEAR = 2**16
"""Bytes before the place where damage shows in which the next member may start (judgement)."""


class Broken(Unreadable, OSError):
    """A part of a compressed file that cannot be decompressed: all before it was read, and reading on gives what follows."""

    def __init__(self, reason: str, whole: bool = False, line: bool = False, unit: str = "part"):
        super().__init__(reason, unit=unit)
        self.whole = whole
        """Whether no content is missing: it is about what lies between or behind compressed streams."""
        self.line = line
        """Whether what follows starts a line, as all members before did."""


def decompressed(handle: pa.NativeFile, path: str) -> io.BufferedReader:
    """The content of a file, by the ending of its name."""
    stream, kind = io.BufferedReader(handle, BUFFER), compression(path)
    return stream if kind is None else decompressing(stream, kind)


def decompressing(stream: Any, kind: str) -> io.BufferedReader:
    """The content of a stream that is compressed by a kind of `names.COMPRESSION`. Reading it raises Broken."""
    return io.BufferedReader(_Content(_content(Ahead(stream), kind)), BUFFER)


def kind_of(start: bytes) -> str | None:
    """How a file is compressed, by its first bytes."""
    return next((kind for kind, magic in _SURE.items() if magic.match(start) and not SKIPPABLE.match(start)), None)


class _Content(io.RawIOBase):
    """Bytes as a stream, which raises what comes between them once all before it was read."""

    def __init__(self, parts: Iterator[bytes | Broken]):
        self.parts = parts
        self.rest: bytes | Broken = b""

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        size = 0
        while size < len(buffer):
            if not self.rest:
                self.rest = next(self.parts, b"")
                if not self.rest:
                    break
            if isinstance(self.rest, Broken):
                if size:
                    break
                broken, self.rest = self.rest, b""
                try:
                    raise broken
                finally:
                    del broken  # or the error would hold this frame, and it the error
            part, self.rest = self.rest[: len(buffer) - size], self.rest[len(buffer) - size :]
            buffer[size : size + len(part)] = part
            size += len(part)
        return size


class _Damaged(Exception):
    """A decompressor gives up on what was fed to it from byte `start` on."""

    def __init__(self, reason: str, start: int, all_given: bool = False):
        super().__init__(reason)
        self.start = start
        self.all_given = all_given
        """Whether it gave all that it made of what came before."""


def _content(source: Ahead, kind: str) -> Iterator[bytes | Broken]:
    """What the members hold."""
    lines = False  # whether members end where lines do
    members = 0
    while source.skip_zeros() >= 0 and source.peek(1):
        start = source.at
        if not _STARTS[kind].match(source.peek(16)):
            if not members:
                yield Broken(_not(kind, source.peek(16)), unit="file")
                return
            source.skip_until(functools.partial(_place, kind), 16)
            yield Broken(f"{source.at - start:,} bytes at byte {start:,}, behind the end of its content, are not {kind}", True)
            continue
        members += 1
        size, last = 0, b""
        try:
            for part in _MEMBERS[kind](source):
                size, last = size + len(part), part
                yield part
        except _Damaged as damaged:
            reason, exactly = str(damaged), damaged.start
            # The decompressor kept what it had already made of its last bite. Fed byte by byte, it gives that, too.
            if not damaged.all_given and source.seek(start):
                try:
                    for part in _MEMBERS[kind](source, damaged.start, size):
                        if left := part[size:] if size < len(part) else b"":
                            yield left
                        size -= min(size, len(part))
                except _Damaged as again:
                    reason, exactly = str(again), source.at
            # What breaks off runs on into the next member before that shows.
            source.seek(max(start + 1, exactly - NEAR))
            yield _broken(source, kind, reason, exactly, lines and members > 1)
        else:
            lines = last.endswith(b"\n") and (lines or members == 1)


def _broken(source: Ahead, kind: str, reason: str, place: int, lines: bool) -> Broken:
    """Go to the next member, and say what is missing before it."""
    if source.skip_until(functools.partial(_place, kind), 16):
        return Broken(f"{reason}, at byte {place:,} of the {kind} file; reading continues at byte {source.at:,}", line=lines)
    if place >= source.at:
        return Broken(f"{reason}, at byte {place:,}, the end of the {kind} file")
    return Broken(f"{reason}, at byte {place:,} of the {source.at:,} of the {kind} file; its rest is missing")


def _not(kind: str, start: bytes) -> str:
    found = kind_of(start)
    return f"it is no {kind} file, though its name says so{f': its content is {found}' if found else ''}"


def _place(kind: str, stretch: bytes) -> int:
    found = _SURE[kind].search(stretch)
    return found.start() if found else -1


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
    """The content of one member, byte by byte behind `careful`. Raises _Damaged."""
    decompressor, start = make(), source.at
    while not decompressor.eof:
        data = b""
        if decompressor.needs_input:
            start = source.at
            few = careful is not None and start >= careful
            if not (data := source.read(1 if few else FED)):
                raise _Damaged(CUT, start, all_given=True)
        try:
            found = decompressor.decompress(data, FED)
        except (zlib.error, lzma.LZMAError, OSError, ValueError, EOFError, MemoryError) as error:
            raise _Damaged(_said(str(error)), start) from None
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
    except _Damaged as damaged:
        if str(damaged) == CUT:  # what came out of a block before is right
            yield from held
        raise
    yield from held


def _framed(
    codec: str, blocks: Callable[[Ahead], Iterator[bytes]], source: Ahead, careful: int | None = None, sure: int = 0
) -> Iterator[bytes]:
    """The content of one frame, byte by byte behind the first `sure` ones. Raises _Damaged."""
    frame, given = Frame(source, blocks), 0
    with pa.CompressedInputStream(pa.PythonFile(frame, mode="r"), codec) as stream:
        try:
            while found := stream.read(FED if careful is None else max(1, min(FED, sure - given))):
                given += len(found)
                yield found
            frame.finish()
        except (OSError, BadFrame) as error:
            raise _Damaged(_said(frame.bad or str(error)), source.at) from None


def _said(error: str) -> str:
    """What a library says of damage, in a few words."""
    if "Truncated" in error or "too early" in error:
        return CUT
    if "check" in error.lower():
        return "what it holds does not match its checksum"
    return f"it is damaged ({re.sub('^Error -?[0-9]+ while decompressing data: ', '', error)})"


_MEMBERS: dict[str, Callable[..., Iterator[bytes]]] = {
    "gzip": functools.partial(_fed, _Gzip),
    "bz2": _bunzipped,
    "xz": functools.partial(_fed, functools.partial(lzma.LZMADecompressor, lzma.FORMAT_XZ)),
    "zstd": functools.partial(_framed, "zstd", zstd_blocks),
    "lz4": functools.partial(_framed, "lz4", lz4_blocks),
}
_STARTS = {
    "gzip": re.compile(rb"\x1f\x8b"),
    "bz2": re.compile(rb"BZh"),
    "xz": re.compile(rb"\xfd7zXZ\x00"),
    "zstd": re.compile(rb"\x28\xb5\x2f\xfd|" + SKIPPABLE.pattern, re.DOTALL),
    "lz4": re.compile(rb"\x04\x22\x4d\x18|" + SKIPPABLE.pattern, re.DOTALL),
}
"""What a member starts with, where one is expected."""
_SURE = {
    **_STARTS,
    "gzip": re.compile(rb"\x1f\x8b\x08[\x00-\x1f].{4}[\x00\x02\x04][\x00-\x0d\xff]", re.DOTALL),
    "bz2": re.compile(rb"BZh[1-9](?:1AY&SY|\x17rE8P\x90)"),
}
"""What else is never taken for the start of a member."""


def read_all(stream: io.BufferedReader) -> tuple[bytes, Broken | None]:
    """All that a stream holds up to where it breaks, and what is said of it. Raises OSError for one that cannot be read."""
    parts, said = list[bytes](), None
    while True:
        try:
            if not (part := stream.read1(BUFFER)):
                break
            parts.append(part)
        except Broken as broken:
            said = broken
            if not broken.whole:
                break
    return b"".join(parts), said
