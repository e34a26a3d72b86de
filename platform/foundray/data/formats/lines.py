"""The content of a text file, decompressed: in numbered lines, or in parts of them. Memory is bounded, whatever it holds.

A UTF-8 byte order mark at the start belongs to no line. Lines end in LF, CR LF, or, in a file whose first megabyte has CRs
and not one LF, in CR, as on the first Macs.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import TypeVar

import pyarrow as pa

from foundray.contract import Unreadable
from foundray.data.files.compression import Broken, decompressed
from foundray.data.formats.not_text import MARKS, not_utf8
from foundray.data.formats.row import LONG, MARK, BadRow, empty

LONGEST_ROW = 2**28
"""Bytes that a line, and what else is read whole, may have (judgement: a row takes several times its size while it is read)."""
PIECE = 2**20

_Row = TypeVar("_Row")


def numbered_lines(handle: pa.NativeFile, path: str, longest: int = LONGEST_ROW) -> Iterator[tuple[int, bytes | BadRow]]:
    """Numbered lines without their ends, and a BadRow in place of what is missing.

    A BadRow does not end the file: what follows are whole lines from behind the gap, which need not belong to what came
    before it. There is one for a line longer than `longest`, which is never held in memory; for each break in a compressed
    stream, which costs the lines that it cuts; and for a file that is no UTF-8 by its byte order mark, which has no lines.
    A line of N bytes takes 2 N of memory until it is yielded, and then N: nothing here keeps it.
    """
    return in_lines(content(handle, path), longest)


def in_lines(content: Iterator[bytes | Unreadable], longest: int = LONGEST_ROW) -> Iterator[tuple[int, bytes | BadRow]]:
    """The lines of what `content` gives, as `numbered_lines` gives them."""
    size = 0  # of a line that is too long, so far
    for number, part, ends in in_parts(content, longest):
        if isinstance(part, Unreadable):
            yield number, BadRow.of(part, f"line {number}")
            size = size if is_whole(part) else 0
        elif size or not ends or len(part) > longest:
            size += len(part)
            if ends:
                yield number, BadRow(f"line {number}", f"a line of {size:,} bytes; at most {longest:,} are read")
                size = 0
        else:
            yield number, part


def line_parts(handle: pa.NativeFile, path: str, most: int = LONG) -> Iterator[tuple[int, bytes | Unreadable, bool]]:
    """(number of the line, part of it without its end, whether the line ends there), or damage in place of a part.

    Lines and damage are those of `numbered_lines`, and a line may be longer than memory: it comes as a whole up to about
    `most` bytes. A line that has begun does not continue behind damage, unless `is_whole`.
    """
    return in_parts(content(handle, path), most)


def in_parts(content: Iterator[bytes | Unreadable], most: int) -> Iterator[tuple[int, bytes | Unreadable, bool]]:
    """The lines of what `content` gives, as `line_parts` gives them."""
    number, skipping = 1, False
    held: list[bytes] = []  # of the line that is being read
    ends: bytes | None = None
    for stretch in content:
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
                yield number, _joined(held, line), True
            else:
                yield number, line.rstrip(b"\r\n"), True
            number += 1
        if last and not skipping:
            held.append(last)
            if sum(map(len, held)) > most:
                line_so_far = b"".join(held)
                kept = line_so_far.rstrip(b"\r")  # it may belong to the line's end
                held[:] = [line_so_far[len(kept) :]]
                del line_so_far
                yield number, kept, False
    if held:
        yield number, _joined(held, b""), True


def is_whole(damage: Unreadable) -> bool:
    """Whether damage is between compressed streams, so that no content is missing."""
    return isinstance(damage, Broken) and damage.whole


def content(handle: pa.NativeFile, path: str) -> Iterator[bytes | Unreadable]:
    """Pieces, the first of `PIECE` bytes or all that is there; and, between them, what is missing."""
    head: list[bytes] | None = []
    for piece in _decompressed(handle, path):
        if head is not None:
            if isinstance(piece, bytes):
                head.append(piece)
            if sum(map(len, head)) < PIECE and isinstance(piece, bytes):
                continue
            first, head = b"".join(head), None
            if wrong := _not_utf8(first):
                yield wrong
                return
            yield first.removeprefix(MARK)
            if isinstance(piece, bytes):
                continue
        yield piece
    if head:
        first = b"".join(head)
        yield _not_utf8(first) or first.removeprefix(MARK)


def _decompressed(handle: pa.NativeFile, path: str) -> Iterator[bytes | Unreadable]:
    stream = decompressed(handle, path)
    while True:
        try:
            if not (piece := stream.read1(PIECE)):
                return
            yield piece
        except Broken as broken:
            yield Broken(f"the compressed stream is broken: {broken}", broken.whole, broken.line, broken.unit)
        except OSError as error:
            yield Unreadable(f"the rest of the file cannot be read ({error})", unit="file")
            return


def _not_utf8(start: bytes) -> Unreadable | None:
    """Why a file that starts so is no UTF-8, if each character shows it."""
    if start.startswith(tuple(MARKS)):
        return Unreadable(not_utf8(start, 0, 0), unit="file")
    sample = start[:4096]
    zeros = sample[::2].count(0), sample[1::2].count(0)
    if min(zeros) == 0 and max(zeros) > max(1, 0.2 * len(sample)):
        name = "UTF-16LE" if zeros[1] else "UTF-16BE"
        return Unreadable(f"it looks like {name}, not UTF-8; convert it: iconv -f {name} -t UTF-8", unit="file")
    return None


def _joined(start: list[bytes], end: bytes) -> bytes:
    start.append(end)
    line = b"".join(start).rstrip(b"\r\n")
    start.clear()
    return line


def merged(rows: Iterator[_Row], reason: str) -> Iterator[_Row | BadRow]:
    """The rows; neighbours that are bad for this reason, which one damaged stretch has in common, are one BadRow."""
    for same, run in itertools.groupby(rows, lambda row: isinstance(row, BadRow) and row.reason == reason):
        if not same:
            yield from run
            continue
        bad = [(row.position, row.lost, row.unit) for row in run if isinstance(row, BadRow)]
        (first, _, unit), (last, *_) = bad[0], bad[-1]
        yield BadRow(first if len(bad) == 1 else f"{first} to {last}", reason, sum(lost for _, lost, _ in bad), unit)


def or_empty(rows: Iterator[_Row]) -> Iterator[_Row | BadRow]:
    """The rows of a file; if there are none, that it is empty."""
    if (first := next(rows, None)) is None:
        yield empty("byte 0", "file")
        return
    yield first
    del first
    yield from rows
