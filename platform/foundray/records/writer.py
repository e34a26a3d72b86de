"""The only writer of logs: appends to a local file; on an object store, writes immutable segments."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable
from pathlib import Path
from uuid import uuid4

from foundray.errors import InputError
from foundray.records.lines import Record, encoded
from foundray.records.segments import Segment, blocks, current
from foundray.storage import Store, writing

BLOCKS = (64, 4096)
"""Segments are merged in groups of these sizes: months with one segment per 5 s leave only hundreds of them."""
MERGED_BYTES = 64 << 20
"""Size limit for merged segments, because they are read into memory."""


class Writer:
    """Writer of one log, for one command."""

    def __init__(self, folder: Store, log: str):
        """`log` is `events` or `metrics`, of the run in `folder`."""
        self.file, self.segments = folder / f"{log}.jsonl", folder / log
        self.id = uuid4().hex[:12]
        self.number: int | None = None
        """Number of the next segment; None until the first is written."""
        self.sizes: dict[Segment, int] = {}
        """Bytes of each segment of the log."""
        self.replaced: list[Segment] = []
        """Merged segments still to be deleted."""

    def append(self, records: Iterable[Record]) -> None:
        """Append all records or none. After a failure, callers append the same records again, perhaps followed by others.

        Raises InputError.
        """
        if self.number is None:
            self._list_segments()
        assert self.number is not None
        if self.file.is_local:  # a run copied from an object store gets one more segment
            target = self.segments / Segment(self.number, self.number, self.id).name if self.sizes else self.file
            return _append(target, encoded(records))
        segment, content = Segment(self.number, self.number, self.id), encoded(records)
        (self.segments / segment.name).write_bytes(content)
        self.sizes[segment] = len(content)
        self.number += 1
        with contextlib.suppress(InputError):  # merging is optional; the next block tries again
            self._merge()

    def _list_segments(self) -> None:
        found = {segment: size for name, size in self.segments.files().items() if (segment := Segment.named(name))}
        kept = current(found)
        self.sizes = {segment: found[segment] for segment in kept}
        self.replaced = [segment for segment in found if segment not in self.sizes]
        self.number = 1 + max((segment.last for segment in found), default=-1)

    def _merge(self) -> None:
        assert self.number is not None
        for size in BLOCKS:
            if self.number % size:
                return
            for group in blocks(self.sizes, size, self.number):
                if sum(self.sizes[segment] for segment in group) <= MERGED_BYTES:
                    self._merge_group(group)
        left, self.replaced = self.replaced, []
        for segment in left:
            self._delete(segment)

    def _merge_group(self, group: list[Segment]) -> None:
        whole = Segment(group[0].first, group[-1].last, group[0].writer)
        contents = [(self.segments / segment.name).read_bytes() for segment in group]
        if not all(content.endswith(b"\n") for content in contents):
            return  # one is truncated: its last line would join, and damage, the next one's first
        content = b"".join(contents)
        (self.segments / whole.name).write_bytes(content)
        for segment in group:
            del self.sizes[segment]
        self.sizes[whole] = len(content)
        for segment in group:
            self._delete(segment)

    def _delete(self, segment: Segment) -> None:
        try:
            (self.segments / segment.name).delete_file()
        except InputError:
            self.replaced.append(segment)


def _append(file: Store, lines: bytes) -> None:
    """Append all lines to a local file, or none."""
    path = Path(file.path)
    with writing(file):
        size = _whole_lines(path)
        try:
            with path.open("ab") as stream:
                stream.write(lines)
        except OSError:
            with contextlib.suppress(OSError):
                os.truncate(path, size)
            raise


def _whole_lines(path: Path) -> int:
    """Size of the file's complete lines. Cuts off a line that a killed writer left unfinished, or the next would join it."""
    if not path.exists():
        return 0
    with path.open("rb+") as stream:
        size = end = stream.seek(0, os.SEEK_END)
        while end:
            start = max(0, end - (1 << 16))
            stream.seek(start)
            if (found := stream.read(end - start).rfind(b"\n")) >= 0:
                end = start + found + 1
                break
            end = start
        if end < size:
            stream.truncate(end)
    return end
