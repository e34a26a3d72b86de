"""Compressed files, read as a stream: every member of a file. Damage costs only the content that it hits.

A file may hold several compressed streams ("members") in a row; its content is their concatenation. Zero bytes between and
after them are padding. Other bytes there, and members that are cut off or damaged, raise `Broken` once all content before
them was read; reading on returns the content of the next member that can be found. Content that is known to be damaged is
never returned: see `trial`.
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
from foundray.data.files.ahead import LookAhead
from foundray.data.files.frames import SKIPPABLE
from foundray.data.files.names import compression

BUFFER = 2**20
SEARCH_BACK = 2**16
"""Bytes before the offset where damage shows in which the next member may start. Judgement."""


class Broken(Unreadable, OSError):
    """A damaged part of a compressed file. All content before it was read; reading on returns what follows it."""

    def __init__(self, reason: str, whole: bool = False, line: bool = False, unit: str = "part"):
        super().__init__(reason, unit=unit)
        self.whole = whole
        """Whether all content is there: the problem is between or after compressed streams."""
        self.line = line
        """Whether the content that follows starts a line, as that of all members before did."""


def decompressed(handle: pa.NativeFile, path: str) -> io.BufferedReader:
    """The content of a file, decompressed if its name's ending says so."""
    stream, kind = io.BufferedReader(handle, BUFFER), compression(path)
    return stream if kind is None else decompressing(stream, kind)


def decompressing(stream: Any, kind: str) -> io.BufferedReader:
    """The content of a stream compressed by a kind of `names.COMPRESSION`. Reading it raises Broken."""
    return io.BufferedReader(_Content(_content(LookAhead(stream), kind)), BUFFER)


def kind_of(start: bytes) -> str | None:
    """The compression of a file, by its first bytes; None if there is none."""
    return next((kind for kind, magic in _SEARCHABLE.items() if magic.match(start) and not SKIPPABLE.match(start)), None)


class _Content(io.RawIOBase):
    """Parts of content as a stream. A Broken between them is raised once all bytes before it were read."""

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
                    del broken  # else the error and this frame would keep each other alive
            part, self.rest = self.rest[: len(buffer) - size], self.rest[len(buffer) - size :]
            buffer[size : size + len(part)] = part
            size += len(part)
        return size


def _content(source: LookAhead, kind: str) -> Iterator[bytes | Broken]:
    """The content of all members. Each is verified before any of it is returned, if the source can be read twice."""
    lines = False  # whether members end where lines do
    members = 0
    while source.skip_zeros() >= 0 and source.peek(1):
        start = source.at
        # Bytes that start no member: the file is of another kind, or they are garbage, which is skipped.
        if not _STARTS[kind].match(source.peek(16)):
            if not members:
                yield Broken(_wrong_kind(kind, source.peek(16)), unit="file")
                return
            source.skip_until(functools.partial(_find_start, kind), 16)
            yield Broken(f"{source.at - start:,} bytes at byte {start:,}, after the end of its content, are not {kind}", True)
            continue
        # A member. If it is damaged, search for the next one.
        members += 1
        last = b""
        twice = kind != "bz2" and source.seek(start)  # each bzip2 block has its own checksum
        member = trial.verified(source, kind) if twice else trial.DelayedMember(source, kind)
        for last in member.parts():
            yield last
        if member.reason:
            # A cut member runs into the next one before the damage shows.
            source.seek(max(start + 1, member.offset - SEARCH_BACK))
            yield _broken(source, kind, member.reason, member.offset, lines and members > 1)
        else:
            lines = last.endswith(b"\n") and (lines or members == 1)


def _broken(source: LookAhead, kind: str, reason: str, offset: int, lines: bool) -> Broken:
    """Go to the next member, and describe what is missing before it."""
    if source.skip_until(functools.partial(_find_start, kind), 16):
        return Broken(f"{reason}, at byte {offset:,} of the {kind} file; reading continues at byte {source.at:,}", line=lines)
    if offset >= source.at:
        return Broken(f"{reason}, at byte {offset:,}, the end of the {kind} file")
    return Broken(f"{reason}, at byte {offset:,} of the {source.at:,} of the {kind} file; its rest is missing")


def _wrong_kind(kind: str, start: bytes) -> str:
    found = kind_of(start)
    article = "an" if kind in ("xz", "lz4") else "a"
    return f"it is not {article} {kind} file, though its name says so{f': its content is {found}' if found else ''}"


def _find_start(kind: str, stretch: bytes) -> int:
    found = _SEARCHABLE[kind].search(stretch)
    return found.start() if found else -1


_STARTS = {
    "gzip": re.compile(rb"\x1f\x8b"),
    "bz2": re.compile(rb"BZh"),
    "xz": re.compile(rb"\xfd7zXZ\x00"),
    "zstd": re.compile(rb"\x28\xb5\x2f\xfd|" + SKIPPABLE.pattern, re.DOTALL),
    "lz4": re.compile(rb"\x04\x22\x4d\x18|" + SKIPPABLE.pattern, re.DOTALL),
}
"""The start of a member where one is expected."""
_SEARCHABLE = {
    **_STARTS,
    "gzip": re.compile(rb"\x1f\x8b\x08[\x00-\x1f].{4}[\x00\x02\x04][\x00-\x0d\xff]", re.DOTALL),
    "bz2": re.compile(rb"BZh[1-9](?:1AY&SY|\x17rE8P\x90)"),
}
"""The start of a member anywhere: longer patterns, which other bytes hardly match."""


def read_all(stream: io.BufferedReader) -> tuple[bytes, Broken | None]:
    """(content up to the first break, the last Broken or None). Raises OSError if the stream cannot be read."""
    parts, error = list[bytes](), None
    while True:
        try:
            if not (part := stream.read1(BUFFER)):
                break
            parts.append(part)
        except Broken as broken:
            error = broken
            if not broken.whole:
                break
    return b"".join(parts), error
