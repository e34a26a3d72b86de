"""Compressed files, read as a stream: every member of a file, and padding between them. What is damaged costs itself alone.

A file may hold several compressed streams ("members") one behind another; its content is theirs together. Zero bytes between
and behind them are padding. Anything else there, a member that breaks off, and one that is damaged raise `Broken` once all
content before that was read; reading on gives the content of the next member that can be found. Nothing is given that is
known to be damaged: see `trial`.
"""

from __future__ import annotations

import functools
import io
import re
from collections.abc import Iterator
from typing import Any

import pyarrow as pa

from foundray.contract import Unreadable
from foundray.data.files import trial
from foundray.data.files.ahead import Ahead
from foundray.data.files.frames import SKIPPABLE
from foundray.data.files.names import compression

BUFFER = 2**20
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


def _content(source: Ahead, kind: str) -> Iterator[bytes | Broken]:
    """What the members hold, each tried before any of it is given if the source can be read twice."""
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
        last = b""
        twice = kind != "bz2" and source.seek(start)  # the blocks of bzip2 have a checksum each
        tried = trial.tried(source, kind) if twice else trial.Late(source, kind)
        for last in tried.parts():
            yield last
        if tried.reason:
            # What breaks off runs on into the next member before that shows.
            source.seek(max(start + 1, tried.place - NEAR))
            yield _broken(source, kind, tried.reason, tried.place, lines and members > 1)
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
