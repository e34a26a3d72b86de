"""Members of compressed files, tried before their content is used: a checksum tells of damage only when all came out.

Of a member whose checksum is wrong nothing is used, since any of it may be wrong. Of one that cannot be decompressed further,
the content before that place is used, but for the last bytes: damage shows late. Of one that is cut off, all that is there.
"""

from __future__ import annotations

import collections
import contextlib
import itertools
from collections.abc import Iterator

from foundray.data.files.ahead import Ahead
from foundray.data.files.decompressors import CUT, MEMBERS, UNMATCHED, Damaged
from foundray.data.files.frames import xz_blocks

KEPT = 2**22
"""Bytes of a member's content that are kept while it is tried. A longer one is decompressed twice."""
LATE = {"gzip": 2**20, "xz": 2**21, "zstd": 2**20, "lz4": 2**20, "bz2": 0}
"""Bytes of content before the place where damage shows that may be wrong (judgement; xz tells at the end of a chunk, which
holds up to 2 MiB; the blocks of bzip2 have a checksum each)."""


class Late:
    """A member whose content is given as it comes, some `LATE` bytes behind: bzip2, and what cannot be read twice."""

    def __init__(self, source: Ahead, kind: str):
        self.source, self.kind = source, kind
        self.reason, self.place = "", 0
        """Why it is damaged and where that shows, once its parts were taken; empty for a healthy one."""

    def parts(self) -> Iterator[bytes]:
        start, given = self.source.at, 0
        held, size = collections.deque[bytes](), 0
        try:
            for part in MEMBERS[self.kind](self.source):
                held.append(part)
                size += len(part)
                while held and size - len(held[0]) >= LATE[self.kind]:
                    size -= len(held[0])
                    given += len(held[0])
                    yield held.popleft()
        except Damaged as damaged:
            self.reason, self.place = str(damaged), damaged.start
            if self.reason == CUT:
                yield from held
            elif self.kind == "bz2":
                yield from self._rest(start, given, damaged.start)
            else:
                self.reason += f", so the {size:,} bytes of content before it are not used"
                if given:
                    self.reason += f"; the {given:,} bytes of its content that were used before may be wrong, too"
            return
        yield from held

    def _rest(self, start: int, given: int, careful: int) -> Iterator[bytes]:
        """What a decompressor had made of its last bite and kept: fed byte by byte, it gives that, too."""
        if not self.source.seek(start):
            return
        try:
            for part in MEMBERS[self.kind](self.source, careful):
                if left := part[given:]:
                    yield left
                given -= min(given, len(part))
        except Damaged as damaged:
            self.reason, self.place = str(damaged), self.source.at


class Tried:
    """A member that was decompressed once: what of its content is good."""

    def __init__(self, source: Ahead, kind: str):
        self.source, self.kind = source, kind
        self.start = source.at
        self.size = self.good = 0
        """Bytes that come out, and how many of them are used."""
        self.kept: list[bytes] | None = []
        self.reason, self.place = "", 0
        """Why it is damaged, if it is, and where that shows."""
        self.careful: int | None = None
        """Where its compressed bytes are fed one by one, so that all comes out that can."""
        self.sure = 0
        """Bytes of content that come out before that."""

    def parts(self) -> Iterator[bytes]:
        """What of its content is used."""
        if self.kept is not None:
            yield from _first(self.kept, self.good)
            self.kept = None
        elif self.good:
            self.source.seek(self.start)
            with contextlib.suppress(Damaged):
                yield from _first(
                    MEMBERS[self.kind](self.source, self.careful, self.sure), None if not self.reason else self.good
                )


def tried(source: Ahead, kind: str) -> Tried:
    """Decompress the member that comes next in a source that can be read twice."""
    found = Tried(source, kind)
    try:
        _try(found)
    except Damaged as damaged:
        found.reason, found.place = str(damaged), damaged.start
        # The decompressor kept what it had already made of its last bite. Fed byte by byte, it gives that, too.
        if not damaged.all_given:
            found.careful, found.sure = damaged.start, found.size
            source.seek(found.start)
            try:
                _try(found)
            except Damaged as again:
                found.reason, found.place = str(again), source.at
        found.good = _good(found)
        if (lost := found.size - found.good) and found.reason != CUT:
            found.reason += f", so {_said(found, lost)}"
    else:
        found.good = found.size
    return found


def _try(found: Tried) -> None:
    found.size, found.kept = 0, []
    for part in MEMBERS[found.kind](found.source, found.careful, found.sure):
        found.size += len(part)
        if found.kept is not None:
            found.kept.append(part)
            if found.size > KEPT:
                found.kept = None


def _said(found: Tried, lost: int) -> str:
    if not found.good:
        return f"none of its {lost:,} bytes of content that came out is used: any of them may be wrong"
    return f"the last {lost:,} bytes of content before it are not used: they may be wrong, too"


def _good(found: Tried) -> int:
    """Bytes of the content of a damaged member that are used."""
    source, size = found.source, found.size
    if found.kind == "xz":
        # Each block has a checksum, and the decompressor does not say that it is this what is wrong.
        source.seek(found.start)
        ends = list(xz_blocks(source))
        source.seek(found.place)
        for before, (content, end) in itertools.pairwise(ends):
            if content == size and found.place <= end:
                found.reason = UNMATCHED
                return before[0]
            if content == size:  # what is damaged lies behind a block that is right
                return size
    if found.reason == UNMATCHED:
        return 0
    if found.reason == CUT and not _has_end(found):
        return size
    if found.reason == CUT:
        found.reason = "it is damaged: its content does not end where it says"
    return max(0, size - LATE[found.kind])


def _has_end(found: Tried) -> bool:
    """Whether a member that seems cut off has its end, so that its content ran on over it: it is damaged, and not cut."""
    if found.kind not in ("gzip", "xz"):
        return False
    source = found.source
    source.seek(max(found.start, source.at - 4))
    last = source.read(4)
    if found.kind == "xz":
        return last[2:] == b"YZ"
    # A gzip member ends with the size of its content. That of one that lost its way is near.
    near = min(2**17, 16 + found.size // 2)
    return len(last) == 4 and abs(int.from_bytes(last, "little") - found.size % 2**32) < near


def _first(parts: Iterator[bytes] | list[bytes], size: int | None) -> Iterator[bytes]:
    """Parts up to so many bytes; all of them for None."""
    for part in parts:
        if size is None:
            yield part
            continue
        if size <= 0:
            return
        yield part[:size]
        size -= len(part)
