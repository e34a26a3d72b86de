"""WebDataset: tar archives of small files, read in memory. Nothing is unpacked to disk, so no name can escape.

Members are selected by their names, as files in a folder are (`data/files/names`).
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
from foundray.data.formats.tar import members
from foundray.data.formats.tar_zeros import Missing
from foundray.spec import SourceConfig
from foundray.spec.formats import DOCUMENTS
from foundray.wording.words import plural

__all__ = ["members", "read", "select_members"]

LABELS = (".cls", ".cls2", ".class", ".count", ".index", ".inx", ".id", ".ten", ".tb")
"""Endings of labels and indexes in WebDataset, which belong to the member of the same name beside them."""
ENDINGS_SHOWN = 5
"""Most endings that a note on skipped members names."""


def read(handle: pa.NativeFile, path: str, source: SourceConfig) -> Iterator[Document | BadRow]:
    """The documents in the members. A member's format follows from its name."""
    for name, content in select_members(decompressed(handle, path), lambda name: _format(name) is not None):
        if isinstance(content, BadRow):
            yield content
        else:
            yield from _documents(name, content, source)


def select_members(stream: IO[bytes], wanted: Callable[[str], bool]) -> Iterator[tuple[str, bytes | BadRow]]:
    """(name, content) of the wanted members, in order, with a BadRow in place of what cannot be read.

    Hidden members are skipped, as hidden files in a folder are. A last BadRow, with nothing lost, counts the other members
    that were left out.
    """
    others = Counter[str]()
    for name, content in members(stream):
        if name and not tar_headers.escapes(name) and is_hidden(posixpath.normpath(name)):
            continue
        if isinstance(content, Missing):
            yield name, BadRow.of(content, content.position)
        elif wanted(name):
            yield name, content
        else:
            others[ending(name) or "no ending"] += 1
    if others:
        kinds = [kind for kind, _ in others.most_common()]
        more = f" and {len(kinds) - ENDINGS_SHOWN} more" if len(kinds) > ENDINGS_SHOWN else ""
        shown = f"{', '.join(kinds[:ENDINGS_SHOWN])}{more}"
        reason = f"left out: {plural(others.total(), 'member')} of other kinds ({shown})"
        yield "", BadRow("end", reason, 0, "member")


def _format(name: str) -> str | None:
    found = None if ends_in(name, LABELS) else format_of(name)
    return found if found in DOCUMENTS else None


def _documents(name: str, content: bytes, source: SourceConfig) -> Iterator[Document | BadRow]:
    try:
        for row in reader(_format(name) or "text")(pa.BufferReader(content), name, source):
            position = name if row.position in ("", "byte 0") else f"{name}, {row.position}"
            yield dataclasses.replace(row, position=position)
    except Exception as error:  # any error costs this member alone
        reason = f"the rest of it cannot be read ({type(error).__name__}: {str(error)[:200]})"
        yield BadRow(name, reason, unit="member")
