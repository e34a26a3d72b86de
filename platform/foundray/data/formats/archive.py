"""WebDataset: tar archives of small files, read in memory. Nothing is unpacked, so nothing can be written elsewhere.

Which members count follows from their names, as it does for files in a folder (`data/names`).
"""

from __future__ import annotations

import dataclasses
import posixpath
from collections import Counter
from collections.abc import Callable, Iterator
from typing import IO

import pyarrow as pa

from foundray.data.files.compression import decompressed
from foundray.data.files.names import ending, ends_in, format_of, is_hidden
from foundray.data.formats import reader, tar_headers
from foundray.data.formats.row import BadRow, Document
from foundray.data.formats.tar import Missing, members
from foundray.spec import SourceConfig
from foundray.spec.formats import DOCUMENTS

__all__ = ["chosen", "members", "read"]

LABELS = (".cls", ".cls2", ".class", ".count", ".index", ".inx", ".id", ".ten", ".tb")
"""What members with numbers end in by WebDataset's convention: they belong to the member of the same name beside them."""
NAMED = 5
"""Endings of members that were left out that are named."""


def read(handle: pa.NativeFile, path: str, source: SourceConfig) -> Iterator[Document | BadRow]:
    """The documents in its members, each read as a file of the format that its name tells."""
    for name, content in chosen(decompressed(handle, path), lambda name: _format(name) is not None):
        if isinstance(content, BadRow):
            yield content
        else:
            yield from _documents(name, content, source)


def chosen(stream: IO[bytes], counts: Callable[[str], bool]) -> Iterator[tuple[str, bytes | BadRow]]:
    """(name, content) of the members that count, in order, a BadRow in place of what cannot be read.

    Hidden members are skipped, as hidden files in a folder are; a last BadRow, of which nothing is lost, tells how many
    others were left out.
    """
    others = Counter[str]()
    for name, content in members(stream):
        if name and not tar_headers.leads_out(name) and is_hidden(posixpath.normpath(name)):
            continue
        if isinstance(content, Missing):
            yield name, BadRow.of(content, content.position)
        elif counts(name):
            yield name, content
        else:
            others[ending(name) or "no ending"] += 1
    if others:
        kinds = [kind for kind, _ in others.most_common()]
        more = f" and {len(kinds) - NAMED} more" if len(kinds) > NAMED else ""
        count = others.total()
        said = f"left out: {count:,} {'member' if count == 1 else 'members'} of other kinds ({', '.join(kinds[:NAMED])}{more})"
        yield "", BadRow("end", said, 0, "member")


def _format(name: str) -> str | None:
    found = None if ends_in(name, LABELS) else format_of(name)
    return found if found in DOCUMENTS else None


def _documents(name: str, content: bytes, source: SourceConfig) -> Iterator[Document | BadRow]:
    try:
        for row in reader(_format(name) or "text")(pa.BufferReader(content), name, source):
            position = name if row.position in ("", "byte 0") else f"{name}, {row.position}"
            yield dataclasses.replace(row, position=position)
    except Exception as error:  # whatever it is, it costs this member alone
        reason = f"the rest of it cannot be read ({type(error).__name__}: {str(error)[:200]})"
        yield BadRow(name, reason, unit="member")
