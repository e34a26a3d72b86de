"""The beginning of a file, decompressed: enough to say what it holds, however large it is."""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import TypeVar

from foundray.data.files.compression import Broken, decompressed, read_all
from foundray.data.files.files import RawFile
from foundray.data.files.names import compression
from foundray.storage import Store, reading

LONGEST_REST = 2**28
"""Bytes after which the rest of a small compressed file is no longer counted."""
_Item = TypeVar("_Item")


@contextmanager
def opened(file: RawFile) -> Iterator[io.BufferedReader]:
    """A raw file's content, decompressed. Raises InputError."""
    store = Store.at(file.url)
    with reading(file.url):
        handle = store.filesystem.open_input_file(store.path)
    with handle:
        yield decompressed(handle, store.path)


def first_bytes(file: RawFile, most: int) -> bytes:
    """Up to `most` bytes from the start of the content; up to the first break, if its compression is broken."""
    return measured_bytes(file, most)[0]


def measured_bytes(file: RawFile, most: int) -> tuple[bytes, float]:
    """(up to `most` bytes of the content, content bytes per stored byte). Raises InputError."""
    store = Store.at(file.url)
    with reading(file.url):
        handle = store.filesystem.open_input_file(store.path)
    with handle:
        stream, parts, size = decompressed(handle, store.path), list[bytes](), 0
        while size < most:
            try:
                part = stream.read1(most - size)
            except Broken:
                break
            if not part:
                return b"".join(parts), size / max(1, file.size) if size else 1.0
            parts.append(part)
            size += len(part)
        stored = min(handle.tell(), file.size)
        if compression(file.url) and stored == file.size:  # a small file, whose stored bytes are all in the buffer
            size += _rest(stream)
    return b"".join(parts), max(1.0, size / max(1, stored))


def whole_rows(content: bytes, quoted: bool = False) -> bytes:
    """Content that was cut, up to its last line break, or the last outside quotes; if there is none, up to a character."""
    end, quotes = content.rfind(b"\n"), content.count(b'"') if quoted else 0
    inside, at = quotes - content.count(b'"', end) if quoted else 0, end
    while at >= 0 and inside % 2:
        before = content.rfind(b"\n", 0, at)
        inside, at = inside - content.count(b'"', before + 1, at), before
    end = at if at >= len(content) // 2 else end  # further back, a quote that never closes is likelier than a field so long
    return content[: end + 1] or content[:-4] + re.sub(rb"[\xc0-\xff][\x80-\xbf]*\Z", b"", content[-4:])


def _rest(stream: io.BufferedReader) -> int:
    """Bytes that are left in a stream, up to its first break, and up to `LONGEST_REST`."""
    size = 0
    with suppress(Broken):
        while size < LONGEST_REST and (part := stream.read1(2**20)):
            size += len(part)
    return size


def whole(file: RawFile) -> bytes:
    """All of the content. Raises InputError."""
    with opened(file) as stream:
        return read_all(stream)[0]


def contents(files: Sequence[RawFile], most: int, inside: Callable[[io.BufferedReader], Iterator[bytes]]) -> Iterator[bytes]:
    """Whole files, spread over all; `inside` gives those in an archive. Raises InputError."""
    for file in spread(files, most):
        if file.format != "webdataset":
            yield whole(file)
            continue
        with opened(file) as stream:
            yield from inside(stream)


def spread(items: Sequence[_Item], most: int) -> list[_Item]:
    """Up to `most` items, evenly over the sequence."""
    if len(items) <= most:
        return list(items)
    return [items[index * len(items) // most] for index in range(most)]
