"""Tar archives, read block by block. Damage costs only the members that it hits, and is reported with its offset and size.

A header with a checksum starts each member. If there is none where the next one should be, the bytes that follow are searched
for one, but never the inside of a member, which may itself be an archive. Zero blocks end an archive; others may follow it.
Formats: POSIX.1-2017, pax, "ustar Interchange Format"; GNU tar's manual, "Basic Tar Format".
"""

from __future__ import annotations

import tarfile
from collections.abc import Iterator
from typing import IO

from foundray.data.files.ahead import CHUNK
from foundray.data.files.compression import decompressing, kind_of
from foundray.data.formats import tar_headers
from foundray.data.formats.not_text import looks_like
from foundray.data.formats.tar_headers import BLOCK, EXTENDED, Blocks, header, padded_size, printable
from foundray.data.formats.tar_zeros import END, RECORD_SIZES, Missing, ZeroRun, fills_record

MAX_MEMBER = 2**31
"""Most bytes of a member that is read. Judgement: it is kept in memory."""
MAX_CLAIMED = 2**28
"""Most bytes of a member for which the size in a damaged header is tried."""
MAX_NAME_HEADER = 3 * BLOCK
"""Most bytes of an extended header with a name. If damage is as short, the member that it belongs to follows."""
MAX_HEADERS = 2**24
"""Most bytes of extended headers before a member: they hold names and short values."""


def members(stream: IO[bytes]) -> Iterator[tuple[str, bytes | Missing]]:
    """(name, content) of each file in an archive, compressed or not, in order, with a Missing per unreadable part.

    The name is empty for a damaged part of the archive. Links and devices are Missing; directories are skipped.
    """
    blocks = Blocks(stream)
    if kind := kind_of(blocks.peek(16)):
        blocks = Blocks(decompressing(blocks, kind))
    return _Tar(blocks).read()


class _Tar:
    def __init__(self, blocks: Blocks):
        self.blocks = blocks
        self.origin = 0
        """Offset of the current archive: a file may hold several."""
        self.phase = 0
        """Offset of a block: the others are whole blocks away from it."""
        self.names: list[str] = []
        """Names of the last two members with a header."""
        self.zeros = 0  # zero bytes read last
        self.reported = False  # whether it was reported that the archive is cut off here
        self.unpadded, self.unpadded_count = "", 0
        """The first member whose padding is not all zero, and the number of such members."""
        self.name_lost = ""  # why the next member's name is unknown
        self.zero_runs: list[ZeroRun] = []
        """Zero bytes between members, each perhaps the end of an archive that another one follows."""

    def read(self) -> Iterator[tuple[str, bytes | Missing]]:
        # What the next block is decides: too short, zeros, no header, or a member's header.
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
        """The member whose header, or first extended header, comes next."""
        before, size = list[bytes](), 0  # extended headers before the member's own
        while True:
            start, block = self.blocks.at, self.blocks.read(BLOCK)
            if (info := header(block)) is None:
                self.blocks.push_back(block)  # the report on the damage there counts the member
                return
            if info.type not in (*EXTENDED, tarfile.XGLTYPE):
                break
            size += info.size
            if size > MAX_HEADERS:
                yield from self._damage(start)
                return
            more = self.blocks.read(padded_size(info.size))
            if len(more) < padded_size(info.size):
                yield "", self._cut_off("", f"it is cut off in an extended header{self._after_last()}")
                return
            if info.type in EXTENDED:  # global ones do not set a member's name or size
                before.append(block + more)
        # A sparse member's map may continue in further blocks.
        while info.type == tarfile.GNUTYPE_SPARSE and block[482 if len(block) == BLOCK else -8]:
            if len(more := self.blocks.read(BLOCK)) < BLOCK:
                break
            block += more
        yield from self._read_content(info, before, block)

    def _read_content(self, info: tarfile.TarInfo, before: list[bytes], head: bytes) -> Iterator[tuple[str, bytes | Missing]]:
        """The content that follows a member's headers."""
        size = tar_headers.stored_size(info, before)
        content = raw = self.blocks.read(min(size, MAX_MEMBER))
        available = len(raw) + (self.blocks.skip(size - MAX_MEMBER) if len(raw) == MAX_MEMBER else 0)
        failed, headers = "", b"".join(before) + head
        try:
            if tar_headers.is_sparse(info, before):
                info = tar_headers.resolved(headers + content)
                content = tar_headers.expanded(info, content[info.offset_data - len(headers) :], MAX_MEMBER)
            elif before:
                info = tar_headers.resolved(headers)
        except Exception as error:  # tarfile raises nearly any exception for a damaged extended header
            failed = f"its extended header cannot be read ({error})"
        # Content that is too short, or whose next header is not where the size says, is not used.
        name = printable(info.name)
        self.names = [*self.names[-1:], name]
        failed, self.name_lost = self.name_lost or failed, ""
        if available < size:
            yield name, self._too_short(name, raw, available, size)
            return
        padding = self.blocks.read(-size % BLOCK)
        if failed or (failed := self._shift(name, raw, padding)):
            yield name, Missing(failed, name)
            return
        # Only regular files of a safe name and size are members.
        if padding.strip(b"\0"):
            self.unpadded, self.unpadded_count = self.unpadded or name, self.unpadded_count + 1
        if tar_headers.escapes(name):
            yield name, Missing("its name points outside the archive", name)
        elif size > MAX_MEMBER:
            yield name, Missing(f"it has {size:,} bytes; at most {MAX_MEMBER:,} are read", name)
        elif info.isreg():
            yield name, content
        elif not info.isdir():
            yield name, Missing("not a regular file", name)

    def _shift(self, name: str, content: bytes, padding: bytes) -> str:
        """Why a member's content has lost or gained bytes: no header follows it, but one is found nearby. Empty if neither.

        Reading then continues at the header that was found.
        """
        following = self.blocks.peek(BLOCK)
        taken = len(content) + len(padding)
        if not taken or taken > MAX_MEMBER or len(following) < BLOCK or not following.strip(b"\0") or header(following):
            return ""
        start = max(0, taken - BLOCK + 1) if tar_headers.is_archive(name, content) else 0
        offset = tar_headers.find((content + padding)[start:] + self.blocks.peek(2 * BLOCK - 1)) + start
        if offset < start:
            return ""
        reason = "bytes are missing in it" if offset < taken else "it holds extra bytes"
        self.blocks.push_back(content + padding)
        self.blocks.skip(offset)
        self.phase = self.blocks.at
        return f"{reason}: the next header is at byte {self.blocks.at:,}, not where its size says"

    def _too_short(self, name: str, content: bytes, available: int, size: int) -> Missing:
        """A Missing for a member of which the archive has only `available` bytes."""
        phase = (self.phase - self.blocks.at + available) % BLOCK
        wrong_size = len(content) == available and content.endswith(bytes(END)) and not self.blocks.broken
        if not wrong_size or (offset := tar_headers.find(content, phase)) < 0:
            return self._cut_off(name, f"it is cut off in this member: {available:,} of its {size:,} bytes are there")
        # The archive has its end, so the size is wrong, and other members were taken for content.
        self.blocks.push_back(content)
        self.blocks.skip(offset)
        self.phase = self.blocks.at
        return Missing(f"its header says {size:,} bytes, and {available:,} are left in the archive", name)

    def _cut_off(self, name: str, reason: str) -> Missing:
        self.reported = True
        return Missing(f"the archive is broken: {self.blocks.broken or reason}", name or "end")

    def _read_zeros(self) -> Iterator[tuple[str, Missing]]:
        """Zero blocks: the end of an archive, or members that were overwritten."""
        start = self.blocks.at
        size = self.zeros = self.blocks.skip_zeros()
        if not self.blocks.peek(1):
            return
        following = header(self.blocks.peek(BLOCK))
        if odd := (self.blocks.at - self.phase) % BLOCK:
            if following:
                self.phase = self.blocks.at
            else:  # a damaged block that starts with zeros
                self.blocks.push_back(bytes(odd))
                size -= odd
        padded = fills_record(size, self.blocks.at - self.origin)
        if not following:
            yield from self._damage(self.blocks.at if padded or size == END else start)
            return
        zero_run = ZeroRun(start, size, self.names, printable(following.name), padded)
        if padded:
            self.origin = self.blocks.at
        if self.names and (padded or size == END):
            self.zero_runs.append(zero_run)
        else:
            yield "", zero_run.loss()

    def _damage(self, start: int) -> Iterator[tuple[str, Missing]]:
        """Skip a damaged area up to the next header. All from `start` on is reported together."""
        block, after, where = self.blocks.peek(BLOCK), self._after_last(), f"byte {start}"
        self.zeros = 0
        claimed = tar_headers.with_fixed_checksum(block) if start == self.blocks.at else None
        if claimed and (size := BLOCK + padded_size(tar_headers.stored_size(claimed, []))) <= MAX_CLAIMED:
            # If a header follows after the size in the damaged header, only that header is damaged.
            taken = self.blocks.peek(size + BLOCK)
            content, following = taken[BLOCK:size], taken[size:]
            plausible = len(following) == BLOCK and (header(following) or not following.strip(b"\0"))
            if plausible and (tar_headers.is_archive(claimed.name, content) or tar_headers.find(content) < 0):
                self.blocks.skip(size)
                if claimed.type in EXTENDED:
                    self.name_lost = f"the header at byte {start:,}{after}, which holds its name, is damaged"
                else:
                    yield "", Missing(f"the header at byte {start:,}{after} is damaged: its member is missing", where)
                return
        if self._search():
            size = self.blocks.at - start
            if size <= MAX_NAME_HEADER and tar_headers.was_extended(block):
                self.name_lost = f"the header at byte {start:,}{after}, which holds its name, is damaged"
                return
            reason = f"{size:,} bytes from byte {start:,} on{after} are damaged: at least one member is missing"
            yield "", Missing(reason, where)
        elif not self.names and not self.blocks.broken:
            self.reported = True
            yield "", self._no_members(block)
        else:
            size = self.blocks.at - start - self.zeros
            yield "", self._cut_off(where, f"its last {size:,} bytes{after} are damaged: at least one member is missing")

    def _search(self) -> bool:
        """Go to the next header, or to the end. Returns whether there is a header."""
        self.zeros = 0
        while True:
            stretch = self.blocks.peek(CHUNK + BLOCK)
            if (offset := tar_headers.find(stretch, (self.phase - self.blocks.at) % BLOCK)) >= 0:
                self.blocks.skip(offset)
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
        """The end: less than a block is left, or the stream breaks."""
        # A break: what follows it, if anything, is searched for a header.
        rest = self.blocks.read(BLOCK)
        if self.blocks.broken:
            if not self.reported:
                yield "", self._cut_off("", "")
            self.blocks.broken = None
            if self.blocks.peek(1):
                self._search()
            return
        # The end of the last archive: report how it is not as it should be.
        size = self.blocks.at - self.origin
        if not (self.names or self.reported):
            yield "", self._no_members(rest)
        elif rest.strip(b"\0") and not self.reported:
            yield "", self._cut_off("", f"it is cut off in a header{self._after_last()}: {len(rest)} bytes of it are there")
        elif not (self.zeros or rest or self.reported):
            yield "", self._cut_off("", f"it has no end mark: it may be cut off after {self.names[-1]}")
        elif (self.blocks.at - self.phase) % BLOCK and not self.reported:
            reason = f"it ends within a block, at byte {self.blocks.at:,}: bytes are missing in the zeros at its end, or before"
            yield "", Missing(reason, "end", 0)
        elif self.zeros > END and not self.reported and not fills_record(self.zeros, size, RECORD_SIZES[:1]):
            start = self.blocks.at - self.zeros
            reason = f"{self.zeros:,} zero bytes end it, more than most writers do: members may be missing{self._after_last()}"
            yield "", Missing(reason, f"byte {start}", 0)
        # The end shows whether the writer pads to records; None if both would look the same.
        padded = fills_record(self.zeros, size)
        pads = None if self.reported or (padded and self.zeros == END) else padded
        for zero_run in self.zero_runs:
            if (missing := zero_run.missing(pads)) is not None:
                yield "", missing
        self.zero_runs.clear()
        if self.name_lost:
            yield "", Missing(f"{self.name_lost}: its member is missing", "end")
        if self.unpadded_count:
            several = f", the first of {self.unpadded_count:,}," if self.unpadded_count > 1 else ""
            reason = f"bytes that are not zero fill the block after {self.unpadded}{several}: a member may be missing there"
            yield "", Missing(reason, "end", 0)

    def _no_members(self, start: bytes) -> Missing:
        """A Missing for a file without a member."""
        if start.strip(b"\0"):
            kind = looks_like(start)
            return Missing(f"it is not a tar archive{f': it looks like {kind}' if kind else ''}", "byte 0", unit="file")
        if self.blocks.at in (0, END, *RECORD_SIZES):
            return Missing("empty", "byte 0", 0, "file")
        return Missing(f"it is not a tar archive: it holds {self.blocks.at:,} zero bytes", "byte 0", unit="file")

    def _after_last(self) -> str:
        return f" (after {self.names[-1]})" if self.names else ""
