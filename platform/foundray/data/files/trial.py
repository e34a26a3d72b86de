"""Members of compressed files, verified before their content is used: a checksum reveals damage only at the end.

If the checksum is wrong, nothing is used, since any byte may be wrong. If decompression fails, the content before that offset
is used except for the last bytes, since damage shows late. If the member is cut off, all content up to the cut is used.
"""

from __future__ import annotations

import collections
import contextlib
import itertools
from collections.abc import Iterator

from foundray.data.files.ahead import LookAhead
from foundray.data.files.decompressors import CHECKSUM_MISMATCH, CUT, MEMBER_READERS, Damaged
from foundray.data.files.frames import xz_blocks

MAX_KEPT = 2**22
"""Bytes of a member's content kept while it is verified. A longer member is decompressed twice."""
SUSPECT = {"gzip": 2**20, "xz": 2**21, "zstd": 2**20, "lz4": 2**20, "bz2": 0}
"""Bytes of content before the offset where damage shows that may be wrong. Judgement: xz notices damage at the end of a
chunk of up to 2 MiB; each bzip2 block has its own checksum."""


class DelayedMember:
    """A member whose content is output `SUSPECT` bytes late: bzip2, and streams that cannot be read twice."""

    def __init__(self, source: LookAhead, kind: str):
        self.source, self.kind = source, kind
        self.reason, self.offset = "", 0
        """Why it is damaged and where that shows, known after `parts`; empty for an intact member."""

    def parts(self) -> Iterator[bytes]:
        """The usable content."""
        start, given = self.source.at, 0
        held, size = collections.deque[bytes](), 0
        try:
            for part in MEMBER_READERS[self.kind](self.source):
                held.append(part)
                size += len(part)
                while held and size - len(held[0]) >= SUSPECT[self.kind]:
                    size -= len(held[0])
                    given += len(held[0])
                    yield held.popleft()
        except Damaged as damaged:
            self.reason, self.offset = str(damaged), damaged.start
            if self.reason == CUT:
                yield from held
            elif self.kind == "bz2":
                yield from self._bytewise_rest(start, given, damaged.start)
            else:
                self.reason += f", so the {size:,} bytes of content before it are not used"
                if given:
                    self.reason += f"; the {given:,} bytes of its content that were used before may be wrong, too"
            return
        yield from held

    def _bytewise_rest(self, start: int, given: int, bytewise_from: int) -> Iterator[bytes]:
        """The output that the decompressor held back at the failure: fed byte by byte, it returns that, too."""
        if not self.source.seek(start):
            return
        try:
            for part in MEMBER_READERS[self.kind](self.source, bytewise_from):
                if left := part[given:]:
                    yield left
                given -= min(given, len(part))
        except Damaged as damaged:
            self.reason, self.offset = str(damaged), self.source.at


class VerifiedMember:
    """A member that was decompressed once, with its usable content."""

    def __init__(self, source: LookAhead, kind: str):
        self.source, self.kind = source, kind
        self.start = source.at
        self.size = self.usable = 0
        """Bytes of content, and how many of them are used."""
        self.kept: list[bytes] | None = []
        self.reason, self.offset = "", 0
        """Why it is damaged and where that shows; empty for an intact member."""
        self.bytewise_from: int | None = None
        """Offset from which its compressed bytes are fed one by one, so that no output is held back."""
        self.size_before = 0
        """Bytes of content before that offset."""

    def parts(self) -> Iterator[bytes]:
        """The usable content."""
        if self.kept is not None:
            yield from _truncated(self.kept, self.usable)
            self.kept = None
        elif self.usable:
            self.source.seek(self.start)
            with contextlib.suppress(Damaged):
                yield from _truncated(
                    MEMBER_READERS[self.kind](self.source, self.bytewise_from, self.size_before),
                    None if not self.reason else self.usable,
                )


def verified(source: LookAhead, kind: str) -> VerifiedMember:
    """The next member of a source that can be read twice, decompressed and verified."""
    found = VerifiedMember(source, kind)
    try:
        _decompress(found)
    except Damaged as damaged:
        found.reason, found.offset = str(damaged), damaged.start
        # The decompressor holds back output of its last chunk. Fed byte by byte, it returns that, too.
        if not damaged.all_output:
            found.bytewise_from, found.size_before = damaged.start, found.size
            source.seek(found.start)
            try:
                _decompress(found)
            except Damaged as again:
                found.reason, found.offset = str(again), source.at
        found.usable = _usable(found)
        if (lost := found.size - found.usable) and found.reason != CUT:
            found.reason += f", so {_loss(found, lost)}"
    else:
        found.usable = found.size
    return found


def _decompress(found: VerifiedMember) -> None:
    found.size, found.kept = 0, []
    for part in MEMBER_READERS[found.kind](found.source, found.bytewise_from, found.size_before):
        found.size += len(part)
        if found.kept is not None:
            found.kept.append(part)
            if found.size > MAX_KEPT:
                found.kept = None


def _loss(found: VerifiedMember, lost: int) -> str:
    if not found.usable:
        return f"none of its {lost:,} bytes of content that came out is used: any of them may be wrong"
    return f"the last {lost:,} bytes of content before it are not used: they may be wrong, too"


def _usable(found: VerifiedMember) -> int:
    """Bytes of a damaged member's content that are used."""
    source, size = found.source, found.size
    if found.kind == "xz":
        # Each block has a checksum, but the decompressor does not report which check failed: compare with the ends of blocks.
        source.seek(found.start)
        ends = list(xz_blocks(source))
        source.seek(found.offset)
        for before, (content, end) in itertools.pairwise(ends):
            if content == size and found.offset <= end:
                found.reason = CHECKSUM_MISMATCH
                return before[0]
            if content == size:  # the damage is after an intact block
                return size
    if found.reason == CHECKSUM_MISMATCH:
        return 0
    # A cut member is correct up to the cut. One that runs over its own end is damaged.
    if found.reason == CUT and not _has_end(found):
        return size
    if found.reason == CUT:
        found.reason = "it is damaged: its content does not end where it says"
    return max(0, size - SUSPECT[found.kind])


def _has_end(found: VerifiedMember) -> bool:
    """Whether a member that seems cut off has its end, so that decompression ran past it: it is damaged, not cut."""
    if found.kind not in ("gzip", "xz"):
        return False
    source = found.source
    source.seek(max(found.start, source.at - 4))
    last = source.read(4)
    if found.kind == "xz":
        return last[2:] == b"YZ"
    # A gzip member ends with its content's size. If decompression went astray, its own count is near that.
    near = min(2**17, 16 + found.size // 2)
    return len(last) == 4 and abs(int.from_bytes(last, "little") - found.size % 2**32) < near


def _truncated(parts: Iterator[bytes] | list[bytes], size: int | None) -> Iterator[bytes]:
    """The first `size` bytes of the parts; all of them for None."""
    for part in parts:
        if size is None:
            yield part
            continue
        if size <= 0:
            return
        yield part[:size]
        size -= len(part)
