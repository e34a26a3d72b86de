"""WebDataset: tar archives of small files, read in memory. Nothing is unpacked, so nothing can be written elsewhere."""

from __future__ import annotations

import posixpath
import tarfile
from collections.abc import Iterator
from typing import IO

import pyarrow as pa

from foundray.contract import Unreadable
from foundray.data.compression import decompressed
from foundray.data.formats import jsonl
from foundray.data.formats.row import BadRow, Document, decode
from foundray.spec import Source


def read(handle: pa.NativeFile, path: str, source: Source) -> Iterator[Document | BadRow]:
    """Its .txt files, and the field of its .json files."""
    for name, content in members(decompressed(handle, path)):
        if isinstance(content, Unreadable):
            yield BadRow.of(content, name or "end")
        elif name.endswith(".txt"):
            yield decode(content, name)
        elif name.endswith(".json"):
            yield jsonl.row(content, name, source.field)


def members(stream: IO[bytes]) -> Iterator[tuple[str, bytes | Unreadable]]:
    """(name, content) of the files of an archive, in order, or why one cannot be used. Links and devices are no files."""
    try:
        with tarfile.open(fileobj=stream, mode="r|*") as archive:
            for member in archive:
                if member.isdir():
                    continue
                name = posixpath.normpath(member.name)
                if name.startswith(("/", "..")):
                    yield member.name, Unreadable("its name leads out of the archive")
                elif not member.isfile():
                    yield member.name, Unreadable("not a plain file")
                else:
                    found = archive.extractfile(member)
                    yield member.name, found.read() if found else Unreadable("not a plain file")
    except (tarfile.TarError, OSError, EOFError) as error:
        yield "", Unreadable(f"the archive is broken: {error}")
