"""The content of a text file, decompressed: in pieces, or in numbered lines. Memory is bounded, whatever the file holds.

A UTF-8 byte order mark at the start belongs to no line. Lines end in LF, CR LF, or, in a file whose first megabyte has CRs
and not one LF, in CR, as on the first Macs.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import TypeVar

import pyarrow as pa

from foundray.contract import Unreadable
from foundray.data.compression import Broken, decompressed
from foundray.data.formats.not_text import MARKS, not_utf8
from foundray.data.formats.row import MARK, BadRow

LONGEST_ROW = 2**28
"""Bytes that a line, and what else is read whole, may have (judgement: a row takes several times its size while it is read)."""
PIECE = 2**20

_Row = TypeVar("_Row")


def numbered_lines(handle: pa.NativeFile, path: str, longest: int = LONGEST_ROW) -> Iterator[tuple[int, bytes | BadRow]]:
    """Numbered lines without their ends, and in their places, at most 1 more than they are, a BadRow for what is missing.

    A BadRow does not end the file: what follows are whole lines from behind the gap, which need not belong to what came
    before it. There is one for a line longer than `longest`, which is never held in memory; for each break in a compressed
    stream, which costs the lines that it cuts; and for a file that is no UTF-8 by its byte order mark, which has no lines.
    A line of N bytes takes 2 N of memory until it is yielded, and then N: nothing here keeps it.
    """
    return in_lines(content(handle, path), longest)


def in_lines(content: Iterator[bytes | Unreadable], longest: int = LONGEST_ROW) -> Iterator[tuple[int, bytes | BadRow]]:
    """The lines of what `content` gives, as `numbered_lines` gives them."""
    number, size, skipping = 1, 0, False
    start: list[bytes] = []  # of the line that is being read, of `size` bytes so far; nothing of one that is too long
    ends: bytes | None = None
    for piece in content:
        if isinstance(piece, Unreadable):
            yield number, BadRow.of(piece, f"line {number}")
            if not (isinstance(piece, Broken) and piece.whole):
                skipping = skipping or not (isinstance(piece, Broken) and piece.line)
                size = 0
                start.clear()
            continue
        if ends is None:
            ends = b"\n" if b"\n" in piece or b"\r" not in piece else b"\r"
        lines = piece.split(ends) if ends == b"\n" else piece.replace(b"\n", b"\r").split(b"\r")
        last = lines.pop()
        for line in lines:
            size += len(line)
            if skipping:
                skipping = False
            elif size > longest:
                yield number, _too_long(number, size, longest)
            elif start:
                yield number, _joined(start, line)
            else:
                yield number, line.rstrip(b"\r\n")
            number, size = number + 1, 0
            start.clear()
        size += len(last)
        if size > longest or skipping:
            start.clear()
        elif last:
            start.append(last)
    if size > longest and not skipping:
        yield number, _too_long(number, size, longest)
    elif start:
        yield number, _joined(start, b"")


def pieces(handle: pa.NativeFile, path: str) -> Iterator[bytes]:
    """The content in pieces of about `PIECE` bytes, cut anywhere, for who reads a document that may be longer than memory.

    Raises Unreadable for a file that is no UTF-8 by its byte order mark, and Broken, which is one, behind what could be
    read: unless it says that the content is `whole`, the rest of it is missing.
    """
    for piece in content(handle, path):
        if isinstance(piece, Unreadable):
            raise piece
        yield piece


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


def _too_long(number: int, size: int, longest: int) -> BadRow:
    return BadRow(f"line {number}", f"a line of {size:,} bytes; at most {longest:,} are read")


def merged(rows: Iterator[_Row], reason: str) -> Iterator[_Row | BadRow]:
    """The rows; neighbours that are bad for this reason, which one damaged stretch has in common, are one BadRow."""
    for same, run in itertools.groupby(rows, lambda row: isinstance(row, BadRow) and row.reason == reason):
        if not same:
            yield from run
            continue
        bad = [(row.position, row.lost, row.unit) for row in run if isinstance(row, BadRow)]
        (first, _, unit), (last, *_) = bad[0], bad[-1]
        yield BadRow(first if len(bad) == 1 else f"{first} to {last}", reason, sum(lost for _, lost, _ in bad), unit)
