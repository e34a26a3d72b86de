"""The decompressed content of a text file, in numbered lines or parts of lines, in bounded memory.

A UTF-8 byte order mark at the start belongs to no line. Lines end in LF or CR LF; if the first megabyte has CRs but no LF,
they end in CR, as on the first Macs.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import TypeVar

import pyarrow as pa

from foundray.contract import Unreadable
from foundray.data.files.compression import Broken, decompressed
from foundray.data.formats.not_text import BOMS, not_utf8
from foundray.data.formats.row import BOM, LONG, BadRow, empty

LONGEST_ROW = 2**28
"""Most bytes of a line, or of anything else that is read whole. Judgement: reading a row takes several times its size."""
CHUNK = 2**20

_Row = TypeVar("_Row")


def numbered_lines(handle: pa.NativeFile, path: str, longest: int = LONGEST_ROW) -> Iterator[tuple[int, bytes | BadRow]]:
    """Numbered lines without their ends, and a BadRow in place of what is missing.

    A BadRow does not end the file: whole lines from after the gap follow, which may be unrelated to those before it. There is
    one for a line longer than `longest`, which is never kept in memory; for each break in a compressed stream, which costs
    the lines that it cuts; and for a file that is not UTF-8 by its byte order mark, which has no lines. A line of N bytes
    takes 2 N of memory until it is yielded, then N, since nothing here keeps it.
    """
    return split_lines(content(handle, path), longest)


def split_lines(chunks: Iterator[bytes | Unreadable], longest: int = LONGEST_ROW) -> Iterator[tuple[int, bytes | BadRow]]:
    """Split chunks of content into lines, as `numbered_lines` yields them."""
    size = 0  # bytes so far of a line that is too long
    for number, part, ends in split_parts(chunks, longest):
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
    """(line number, part of the line without its end, whether the line ends there), with damage in place of a part.

    Lines and damage are as in `numbered_lines`, but a line may exceed the memory: up to about `most` bytes it is one part. A
    line that has started does not continue after damage, unless `is_whole`.
    """
    return split_parts(content(handle, path), most)


def split_parts(chunks: Iterator[bytes | Unreadable], most: int) -> Iterator[tuple[int, bytes | Unreadable, bool]]:
    """Split chunks of content into parts of lines, as `line_parts` yields them."""
    number, skipping = 1, False
    held: list[bytes] = []  # parts of the current line
    ends: bytes | None = None
    for chunk in chunks:
        if isinstance(chunk, Unreadable):
            # Damage: drop the current line, and the rest of it after the gap.
            yield number, chunk, True
            if not is_whole(chunk):
                skipping = skipping or not (isinstance(chunk, Broken) and chunk.line)
                held.clear()
            continue
        if ends is None:
            ends = b"\n" if b"\n" in chunk or b"\r" not in chunk else b"\r"
        # All lines that end in this chunk.
        lines = chunk.split(ends) if ends == b"\n" else chunk.replace(b"\n", b"\r").split(b"\r")
        last = lines.pop()
        for line in lines:
            if skipping:
                skipping = False
            elif held:
                yield number, _join_line(held, line), True
            else:
                yield number, line.rstrip(b"\r\n"), True
            number += 1
        # The start of the next line; yield a part once it is long.
        if last and not skipping:
            held.append(last)
            if sum(map(len, held)) > most:
                line_so_far = b"".join(held)
                kept = line_so_far.rstrip(b"\r")  # it may belong to the line's end
                held[:] = [line_so_far[len(kept) :]]
                del line_so_far
                yield number, kept, False
    if held:
        yield number, _join_line(held, b""), True


def is_whole(damage: Unreadable) -> bool:
    """Whether no content is missing, since the damage is between compressed streams."""
    return isinstance(damage, Broken) and damage.whole


def content(handle: pa.NativeFile, path: str) -> Iterator[bytes | Unreadable]:
    """Chunks of content without a byte order mark, and an Unreadable per gap. The first has `CHUNK` bytes or all there are."""
    head: list[bytes] | None = []
    for chunk in _decompressed(handle, path):
        # Collect the start of the file, which shows its encoding.
        if head is not None:
            if isinstance(chunk, bytes):
                head.append(chunk)
            if sum(map(len, head)) < CHUNK and isinstance(chunk, bytes):
                continue
            first, head = b"".join(head), None
            if wrong := _not_utf8(first):
                yield wrong
                return
            yield first.removeprefix(BOM)
            if isinstance(chunk, bytes):
                continue
        yield chunk
    if head:
        first = b"".join(head)
        yield _not_utf8(first) or first.removeprefix(BOM)


def _decompressed(handle: pa.NativeFile, path: str) -> Iterator[bytes | Unreadable]:
    stream = decompressed(handle, path)
    while True:
        try:
            if not (chunk := stream.read1(CHUNK)):
                return
            yield chunk
        except Broken as broken:
            yield Broken(f"the compressed stream is broken: {broken}", broken.whole, broken.line, broken.unit)
        except OSError as error:
            yield Unreadable(f"the rest of the file cannot be read ({error})", unit="file")
            return


def _not_utf8(start: bytes) -> Unreadable | None:
    """Why a file with this start is in another encoding; None if it is not."""
    if start.startswith(tuple(BOMS)):
        return Unreadable(not_utf8(start, 0, 0), unit="file")
    sample = start[:4096]
    zeros = sample[::2].count(0), sample[1::2].count(0)
    if min(zeros) == 0 and max(zeros) > max(1, 0.2 * len(sample)):
        name = "UTF-16LE" if zeros[1] else "UTF-16BE"
        return Unreadable(f"it looks like {name}, not UTF-8; convert it: iconv -f {name} -t UTF-8", unit="file")
    return None


def _join_line(start: list[bytes], end: bytes) -> bytes:
    start.append(end)
    line = b"".join(start).rstrip(b"\r\n")
    start.clear()
    return line


def merge_repeats(rows: Iterator[_Row], reason: str) -> Iterator[_Row | BadRow]:
    """The rows, with neighbouring BadRows of this reason merged into one, since one damaged area explains them."""
    for same, run in itertools.groupby(rows, lambda row: isinstance(row, BadRow) and row.reason == reason):
        if not same:
            yield from run
            continue
        bad = [(row.position, row.lost, row.unit) for row in run if isinstance(row, BadRow)]
        (first, _, unit), (last, *_) = bad[0], bad[-1]
        yield BadRow(first if len(bad) == 1 else f"{first} to {last}", reason, sum(lost for _, lost, _ in bad), unit)


def or_empty(rows: Iterator[_Row]) -> Iterator[_Row | BadRow]:
    """The rows of a file, or a BadRow for an empty file if there are none."""
    if (first := next(rows, None)) is None:
        yield empty("byte 0", "file")
        return
    yield first
    del first
    yield from rows
