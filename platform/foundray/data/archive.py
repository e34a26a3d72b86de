"""WebDataset: tar archives of small files, read in memory. Nothing is unpacked, so nothing can be written elsewhere."""

from __future__ import annotations

import posixpath
import tarfile
from collections.abc import Iterator
from typing import IO

from foundray.contract import Unreadable


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
