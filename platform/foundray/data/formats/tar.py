"""Tar archives, read block by block: what is damaged costs itself alone, and is reported with its place and size.

A header starts each member, and has a checksum. Where the next header should be and is none, what follows is searched for
one: never inside a member, which may hold an archive itself. Zero blocks end an archive; there may be others behind it.
Formats: POSIX.1-2017, pax, "ustar Interchange Format"; GNU tar's manual, "Basic Tar Format".
"""

from __future__ import annotations

import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from typing import IO

from foundray.contract import Unreadable
from foundray.data.files.ahead import CHUNK
from foundray.data.files.compression import decompressing, kind_of
from foundray.data.formats import tar_headers
from foundray.data.formats.not_text import looks_like
from foundray.data.formats.tar_headers import BLOCK, EXTENDED, Blocks, header, printable, whole

END = 2 * BLOCK
"""Zero bytes that end an archive. Most writers fill its last record with more of them."""
RECORDS = [BLOCK * factor for factor in (20, 64, 128, 256, 512, 1024, 2048)]
"""Bytes of a record: of tar's own blocking factor, and of larger ones."""
LARGEST = 2**31
"""Bytes of a member that is read, at most (judgement: it is held in memory)."""
BELIEVED = 2**28
"""Bytes up to which the size in a damaged header is tried."""
SHORT = 3 * BLOCK
"""Bytes of an extended header with a name, at most: behind a damaged one as short the member that it is of is known."""
NAMES = 2**24
"""Bytes of extended headers before a member, at most: they hold names, and values of a few bytes."""


class Missing(Unreadable):
    """What of an archive cannot be read."""

    def __init__(self, reason: str, position: str, lost: int = 1, unit: str = "member"):
        super().__init__(reason, lost, unit)
        self.position = position
        """The member's name, or where in the archive it is."""


def members(stream: IO[bytes]) -> Iterator[tuple[str, bytes | Missing]]:
    """(name, content) of each file in an archive, compressed or not, in order; in place of what cannot be read, why.

    The name is empty for a damaged part of the archive. Links and devices are no files, and directories are not given.
    """
    blocks = Blocks(stream)
    if kind := kind_of(blocks.peek(16)):
        blocks = Blocks(decompressing(blocks, kind))
    return _Tar(blocks).read()


class _Tar:
    def __init__(self, blocks: Blocks):
        self.blocks = blocks
        self.origin = 0
        """Where the archive starts that is being read: there may be several."""
        self.phase = 0
        """Where a block starts: others start whole blocks from there."""
        self.names: list[str] = []
        """The last two members that had a header."""
        self.zeros = 0
        """Zero bytes that were read last."""
        self.reported = False
        """Whether it was reported that the archive breaks off here."""
        self.stray, self.strays = "", 0
        """The first member whose padding is not zero bytes, and how many there are."""
        self.nameless = ""
        """Why the next member's name is not known, if it is not."""
        self.joints: list[_Joint] = []
        """Zero bytes between members that may be the end of an archive which another one follows."""

    def read(self) -> Iterator[tuple[str, bytes | Missing]]:
        while True:
            block = self.blocks.peek(BLOCK)
            if len(block) < BLOCK:
                yield from self._end()
                if not self.blocks.peek(1):
                    break
            elif not block.strip(b"\0"):
                yield from self._read_zeros()
            elif header(block) is None:
                yield from self._damage(self.blocks.at)
            else:
                self.zeros, self.reported = 0, False
                yield from self._read_member()
        for note in self.blocks.notes:
            yield "", Missing(f"the compressed stream is broken: {note}", "end", unit=note.unit)

    def _read_member(self) -> Iterator[tuple[str, bytes | Missing]]:
        """The member whose header comes next, or the first of whose headers does."""
        before, size = list[bytes](), 0  # its extended headers
        while True:
            start, block = self.blocks.at, self.blocks.read(BLOCK)
            if (info := header(block)) is None:
                self.blocks.push_back(block)  # what is said of the damage there counts the member
                return
            if info.type not in (*EXTENDED, tarfile.XGLTYPE):
                break
            size += info.size
            if size > NAMES:
                yield from self._damage(start)
                return
            more = self.blocks.read(whole(info.size))
            if len(more) < whole(info.size):
                yield "", self._cut_off("", f"it is cut off in an extended header{self._behind()}")
                return
            if info.type in EXTENDED:  # global ones say nothing of a member's name or size that counts
                before.append(block + more)
        while info.type == tarfile.GNUTYPE_SPARSE and block[482 if len(block) == BLOCK else -8]:
            if len(more := self.blocks.read(BLOCK)) < BLOCK:
                break
            block += more
        yield from self._read_content(info, before, block)

    def _read_content(self, info: tarfile.TarInfo, before: list[bytes], head: bytes) -> Iterator[tuple[str, bytes | Missing]]:
        """The content behind a member's headers."""
        size = tar_headers.stored(info, before)
        content = raw = self.blocks.read(min(size, LARGEST))
        there = len(raw) + (self.blocks.skip(size - LARGEST) if len(raw) == LARGEST else 0)
        failed = ""
        try:
            if tar_headers.is_sparse(info, before):
                info = tar_headers.resolved(b"".join(before) + head + content)
                content = tar_headers.expanded(info, content[info.offset_data - sum(map(len, before)) - len(head) :], LARGEST)
            elif before:
                info = tar_headers.resolved(b"".join(before) + head)
        except Exception as error:  # tarfile raises nearly anything for a damaged extended header
            failed = f"its extended header cannot be read ({error})"
        name = printable(info.name)
        self.names = [*self.names[-1:], name]
        failed, self.nameless = self.nameless or failed, ""
        if there < size:
            yield name, self._short(name, raw, there, size)
            return
        padding = self.blocks.read(-size % BLOCK)
        if failed or (failed := self._shifted(name, raw, padding)):
            yield name, Missing(failed, name)
            return
        if padding.strip(b"\0"):
            self.stray, self.strays = self.stray or name, self.strays + 1
        if tar_headers.leads_out(name):
            yield name, Missing("its name leads out of the archive", name)
        elif size > LARGEST:
            yield name, Missing(f"it has {size:,} bytes; at most {LARGEST:,} are read", name)
        elif info.isreg():
            yield name, content
        elif not info.isdir():
            yield name, Missing("not a plain file", name)

    def _shifted(self, name: str, content: bytes, padding: bytes) -> str:
        """How a member's content shows that bytes are missing or too many in it, if it does: no header follows in place.

        The next header is the start of what is read then.
        """
        following = self.blocks.peek(BLOCK)
        taken = len(content) + len(padding)
        if not taken or taken > LARGEST or len(following) < BLOCK or not following.strip(b"\0") or header(following):
            return ""
        start = max(0, taken - BLOCK + 1) if tar_headers.is_archive(name, content) else 0
        place = tar_headers.find((content + padding)[start:] + self.blocks.peek(2 * BLOCK - 1)) + start
        if place < start:
            return ""
        said = "bytes are missing in it" if place < taken else "it holds bytes that were not in it"
        self.blocks.push_back(content + padding)
        self.blocks.skip(place)
        self.phase = self.blocks.at
        return f"{said}: the next header stands at byte {self.blocks.at:,}, and not where its size says"

    def _short(self, name: str, content: bytes, there: int, size: int) -> Missing:
        """Of the member that the archive ends in, so many bytes are there."""
        phase = (self.phase - self.blocks.at + there) % BLOCK
        lies = len(content) == there and content.endswith(bytes(END)) and not self.blocks.broken
        if not lies or (place := tar_headers.find(content, phase)) < 0:
            return self._cut_off(name, f"it is cut off in this member: {there:,} of its {size:,} bytes are there")
        # The archive has an end: it is not cut, but the size is wrong, and other members were taken for the content.
        self.blocks.push_back(content)
        self.blocks.skip(place)
        self.phase = self.blocks.at
        return Missing(f"its header says {size:,} bytes, and {there:,} are left in the archive", name)

    def _cut_off(self, name: str, reason: str) -> Missing:
        self.reported = True
        return Missing(f"the archive is broken: {self.blocks.broken or reason}", name or "end")

    def _read_zeros(self) -> Iterator[tuple[str, Missing]]:
        """Zero blocks: the end of an archive, or what stands in place of members."""
        start = self.blocks.at
        size = self.zeros = self.blocks.skip_zeros()
        if not self.blocks.peek(1):
            return
        following = header(self.blocks.peek(BLOCK))
        if odd := (self.blocks.at - self.phase) % BLOCK:
            if following:
                self.phase = self.blocks.at
            else:  # a block that starts with zeros, and is damaged
                self.blocks.push_back(bytes(odd))
                size -= odd
        padded = _padded(size, self.blocks.at - self.origin)
        if not following:
            yield from self._damage(self.blocks.at if padded or size == END else start)
            return
        joint = _Joint(start, size, self.names, printable(following.name), padded)
        if padded:
            self.origin = self.blocks.at
        if self.names and (padded or size == END):
            self.joints.append(joint)
        else:
            yield "", joint.loss()

    def _damage(self, start: int) -> Iterator[tuple[str, Missing]]:
        """What is no header: it is skipped up to the next one, and told together with all from `start` on."""
        block, behind, where = self.blocks.peek(BLOCK), self._behind(), f"byte {start}"
        self.zeros = 0
        claimed = tar_headers.mended(block) if start == self.blocks.at else None
        if claimed and (size := BLOCK + whole(tar_headers.stored(claimed, []))) <= BELIEVED:
            # If a header follows a member of the size that the damaged header still says, it was just this one.
            taken = self.blocks.peek(size + BLOCK)
            content, following = taken[BLOCK:size], taken[size:]
            right = len(following) == BLOCK and (header(following) or not following.strip(b"\0"))
            if right and (tar_headers.is_archive(claimed.name, content) or tar_headers.find(content) < 0):
                self.blocks.skip(size)
                if claimed.type in EXTENDED:
                    self.nameless = f"the header at byte {start:,}{behind}, which holds its name, is damaged"
                else:
                    yield "", Missing(f"the header at byte {start:,}{behind} is damaged: its member is missing", where)
                return
        if self._search():
            size = self.blocks.at - start
            if size <= SHORT and tar_headers.was_extended(block):
                self.nameless = f"the header at byte {start:,}{behind}, which holds its name, is damaged"
                return
            yield "", Missing(f"{size:,} bytes from byte {start:,} on{behind} are damaged: a member at least is missing", where)
        elif not self.names and not self.blocks.broken:
            self.reported = True
            yield "", self._nothing(block)
        else:
            size = self.blocks.at - start - self.zeros
            yield "", self._cut_off(where, f"its last {size:,} bytes{behind} are damaged: a member at least is missing")

    def _search(self) -> bool:
        """Go to the next header, or to the end; whether there is one."""
        self.zeros = 0
        while True:
            stretch = self.blocks.peek(CHUNK + BLOCK)
            if (place := tar_headers.find(stretch, (self.phase - self.blocks.at) % BLOCK)) >= 0:
                self.blocks.skip(place)
                self.phase = self.blocks.at
                return True
            last = len(stretch) < CHUNK + BLOCK
            taken = stretch if last else stretch[: CHUNK + 1]  # a header may start in each of the last bytes
            kept = len(taken.rstrip(b"\0"))
            self.zeros = len(taken) - kept + (0 if kept else self.zeros)
            self.blocks.skip(len(taken))
            if last:
                return False

    def _end(self) -> Iterator[tuple[str, Missing]]:
        """Less than a block is left, or the stream breaks."""
        rest = self.blocks.read(BLOCK)
        if self.blocks.broken:
            if not self.reported:
                yield "", self._cut_off("", "")
            self.blocks.broken = None
            if self.blocks.peek(1):
                self._search()
            return
        if not (self.names or self.reported):
            yield "", self._nothing(rest)
        elif rest.strip(b"\0") and not self.reported:
            yield "", self._cut_off("", f"it is cut off in a header{self._behind()}: {len(rest)} bytes of it are there")
        elif not (self.zeros or rest or self.reported):
            yield "", self._cut_off("", f"it has no end mark: it may be cut off behind {self.names[-1]}")
        elif (self.blocks.at - self.phase) % BLOCK and not self.reported:
            reason = f"it ends within a block, at byte {self.blocks.at:,}: bytes are missing in the zeros at its end, or before"
            yield "", Missing(reason, "end", 0)
        elif self.zeros > END and not self.reported and not _padded(self.zeros, self.blocks.at - self.origin, RECORDS[:1]):
            start = self.blocks.at - self.zeros
            reason = f"{self.zeros:,} zero bytes end it, more than most writers do: members may be missing{self._behind()}"
            yield "", Missing(reason, f"byte {start}", 0)
        # The end itself shows whether the writer pads: unknown (None) if it would be the same either way.
        padded = _padded(self.zeros, self.blocks.at - self.origin)
        pads = None if self.reported or (padded and self.zeros == END) else padded
        for joint in self.joints:
            if (missing := joint.missing(pads)) is not None:
                yield "", missing
        self.joints.clear()
        if self.nameless:
            yield "", Missing(f"{self.nameless}: its member is missing", "end")
        if self.strays:
            several = f", the first of {self.strays:,}," if self.strays > 1 else ""
            reason = f"bytes that are not zero fill the block behind {self.stray}{several}: a member may be missing there"
            yield "", Missing(reason, "end", 0)

    def _nothing(self, start: bytes) -> Missing:
        """What is said of a file without a member."""
        if start.strip(b"\0"):
            kind = looks_like(start)
            return Missing(f"it is no tar archive{f': it looks like {kind}' if kind else ''}", "byte 0", unit="file")
        if self.blocks.at in (0, END, *RECORDS):
            return Missing("empty", "byte 0", 0, "file")
        return Missing(f"it is no tar archive: it holds {self.blocks.at:,} zero bytes", "byte 0", unit="file")

    def _behind(self) -> str:
        return f" (behind {self.names[-1]})" if self.names else ""


def _padded(zeros: int, size: int, records: list[int] = RECORDS) -> bool:
    """Whether zero bytes are an end that fills its last record, in an archive of a size up to behind them."""
    return any(size % record == 0 and END <= zeros < END + record for record in records)


@dataclass
class _Joint:
    """Zero bytes between members. Zeroed members may look like the end of an archive that another one follows."""

    start: int
    size: int
    before: list[str]
    behind: str
    padded: bool
    """Whether they fill a record, as the ends of most archives do."""

    def missing(self, pads: bool | None) -> Missing | None:
        """What they stand for in an archive whose own end is padded or not, or is not known; None for nothing."""
        count = tar_headers.missing_between(self.before, self.behind)
        if count or (count is None and pads is not None and pads != self.padded):
            return self.loss()
        if count == 0:
            return None
        end = f"bytes {self.start:,} to {self.start + self.size:,} are zero, {self._between()}"
        reason = (
            f"{end}: they are read as the end of an archive, and the one behind it is read, too; or members are missing there"
        )
        return Missing(reason, f"byte {self.start}", 0)

    def loss(self) -> Missing:
        """As many members as their names tell, if these count; otherwise one at least."""
        count = tar_headers.missing_between(self.before, self.behind) or 0
        count = min(count, self.size // BLOCK)  # each has a header
        said = "a member at least is" if not count else "a member is" if count == 1 else f"{count:,} members are"
        return Missing(f"{self.size:,} zero bytes stand {self._between()}: {said} missing", f"byte {self.start}", max(1, count))

    def _between(self) -> str:
        return f"between {self.before[-1]} and {self.behind}" if self.before else f"before {self.behind}"
