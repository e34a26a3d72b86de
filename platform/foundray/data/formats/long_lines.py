"""Numbered lines of a file in parts, so that a line may be longer than memory."""

from __future__ import annotations

from collections.abc import Iterator

import pyarrow as pa

from foundray.contract import Unreadable
from foundray.data.compression import Broken
from foundray.data.formats.lines import content
from foundray.data.formats.row import LONG


def line_parts(handle: pa.NativeFile, path: str, most: int = LONG) -> Iterator[tuple[int, bytes | Unreadable, bool]]:
    """(number of the line, part of it without its end, whether the line ends there), or damage in place of a part.

    Lines and damage are those of `numbered_lines`. A line of up to about `most` bytes comes as a whole. A line that has begun
    does not continue behind damage, unless `is_whole`.
    """
    number, skipping = 1, False
    held: list[bytes] = []  # of the line that is being read
    ends: bytes | None = None
    for stretch in content(handle, path):
        if isinstance(stretch, Unreadable):
            yield number, stretch, True
            if not is_whole(stretch):
                skipping = skipping or not (isinstance(stretch, Broken) and stretch.line)
                held.clear()
            continue
        if ends is None:
            ends = b"\n" if b"\n" in stretch or b"\r" not in stretch else b"\r"
        lines = stretch.split(ends) if ends == b"\n" else stretch.replace(b"\n", b"\r").split(b"\r")
        last = lines.pop()
        for line in lines:
            if skipping:
                skipping = False
            elif held:
                held.append(line)
                yield number, b"".join(held).rstrip(b"\r\n"), True
                held.clear()
            else:
                yield number, line.rstrip(b"\r\n"), True
            number += 1
        if last and not skipping:
            held.append(last)
            if sum(map(len, held)) > most:
                line_so_far = b"".join(held)
                kept = line_so_far.rstrip(b"\r")  # it may belong to the line's end
                yield number, kept, False
                held[:] = [line_so_far[len(kept) :]]
    if held:
        yield number, b"".join(held).rstrip(b"\r\n"), True


def is_whole(damage: Unreadable) -> bool:
    """Whether damage is between compressed streams, so that no content is missing."""
    return isinstance(damage, Broken) and damage.whole
