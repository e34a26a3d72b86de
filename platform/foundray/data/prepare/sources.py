"""Content of a raw file: documents, or rows of a modality that has its own, with a BadRow for each part that is unusable."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, TypeVar

import pyarrow as pa

from foundray.contract import Unreadable, Values
from foundray.data.files.compression import decompressed, read_all
from foundray.data.files.files import RawFile
from foundray.data.files.names import ends_in, format_of
from foundray.data.formats import archive, reader
from foundray.data.formats.row import BadRow, Document, empty
from foundray.errors import FoundrayError
from foundray.spec import SourceConfig
from foundray.storage import Store, reading

__all__ = ["BadRow", "Document", "read_documents", "read_located_rows", "read_rows", "read_whole"]

_Read = TypeVar("_Read")


def read_documents(file: RawFile, source: SourceConfig) -> Iterator[Document | BadRow]:
    """Yield the file's documents in order, with a BadRow in place of each part that cannot be used."""
    with _opened(file) as (handle, path):
        rows = _guarded(reader(file.format)(handle, path, source), lambda at, bad: bad)
        for number, row in enumerate(rows):
            yield _with_format_by_name(row, file) if number == 0 and isinstance(row, BadRow) else row


def _with_format_by_name(row: BadRow, file: RawFile) -> BadRow:
    """Add the format that the file's name suggests to a bad first row, if the file was read as another."""
    named = format_of(file.url) or "of no format that is read"
    if "code" in (named, file.format) or named in (file.format, "text") or not row.lost:
        return row
    return replace(row, reason=f"{row.reason} (by its name the file is {named}, and it is read as {file.format})")


def read_rows(file: RawFile, source: SourceConfig, modality: Values, length: int) -> Iterator[dict[str, Any] | BadRow]:
    """Yield the rows of a modality that has its own files, in order, with a BadRow in place of what cannot be used."""
    for _, _, row in read_located_rows(file, source, modality, length):
        yield row


def read_located_rows(
    file: RawFile, source: SourceConfig, modality: Values, length: int
) -> Iterator[tuple[str, str, dict[str, Any] | BadRow]]:
    """Yield (path of the file, or name in the archive; position in it; row as in `read_rows`)."""
    with _opened(file) as (handle, path):
        stream = decompressed(handle, path)
        if file.format == "webdataset":
            yield from _guarded(_archived_rows(stream, modality, length), lambda at, bad: ("", at, bad))
            return
        yield from _decompressed_rows(modality, path, stream, length, "")


def _archived_rows(stream: Any, modality: Values, length: int) -> Iterator[tuple[str, str, dict[str, Any] | BadRow]]:
    for name, content in archive.select_members(stream, lambda name: ends_in(name, modality.endings)):
        if isinstance(content, BadRow):
            yield name, "", content
        else:
            yield from _decompressed_rows(modality, name, decompressed(pa.BufferReader(content), name), length, name)


def _decompressed_rows(
    modality: Values, name: str, stream: Any, length: int, label: str
) -> Iterator[tuple[str, str, dict[str, Any] | BadRow]]:
    """Yield the rows of one file or archive member, which `label` names; none if its content is cut off."""
    whole = label or "byte 0"
    try:
        content, broken = read_all(stream)
    except OSError as error:
        yield name, "", BadRow(whole, f"it cannot be read ({error})", unit="file")
        return
    if broken is None and not content:
        yield name, "", empty(whole, "file")
    elif broken is None or broken.whole:
        yield from _rows(modality, name, content, length, label)
    if broken is not None:
        unit = broken.unit if broken.whole else "file"
        yield name, "", BadRow(whole, f"the compressed stream is broken: {broken}", unit=unit)


def _rows(
    modality: Values, name: str, content: bytes, length: int, label: str
) -> Iterator[tuple[str, str, dict[str, Any] | BadRow]]:
    """Yield the rows, each checked by decoding it as training will."""

    def where(position: str) -> str:
        return f"{label}, {position}" if label else position

    def checked() -> Iterator[tuple[str, str, dict[str, Any] | BadRow]]:
        for position, row in modality.rows(name, content, length):
            if not isinstance(row, Unreadable):
                try:
                    modality.units(row, length, None)
                except Unreadable as error:
                    row = error
            yield name, position, BadRow.of(row, where(position)) if isinstance(row, Unreadable) else row

    yield from _guarded(checked(), lambda at, bad: (name, at, bad), label or "byte 0")


def _guarded(rows: Iterator[_Read], replacement: Callable[[str, BadRow], _Read], whole: str = "byte 0") -> Iterator[_Read]:
    """Yield the rows; if the reader fails for any reason, `replacement` makes one that stands for the rest of the file.

    A file without any row counts as empty.
    """
    count = 0
    try:
        for row in rows:
            count += 1
            yield row
    except FoundrayError:
        raise
    except Unreadable as error:
        count += 1
        yield replacement("", BadRow.of(error, whole))
    except BaseException as error:
        # A panic in a Rust library is not an Exception; only its name identifies it.
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
            raise
        count += 1
        at = f"after row {count - 2}" if count > 1 else whole
        reason = f"the rest of the file cannot be read ({type(error).__name__}: {str(error)[:200]})"
        yield replacement(at, BadRow(at, reason, unit="file"))
    if not count:
        yield replacement("", empty(whole, "file"))


@contextmanager
def _opened(file: RawFile) -> Iterator[tuple[pa.NativeFile, str]]:
    """Open a raw file as (handle, path)."""
    store = Store.at(file.url)
    with reading(file.url):
        handle = store.filesystem.open_input_file(store.path)
    with handle:
        yield handle, store.path


def read_whole(url: str) -> bytes:
    """Content of a file, decompressed. Raises InputError."""
    store = Store.at(url)
    with reading(url), store.filesystem.open_input_file(store.path) as handle:
        return decompressed(handle, store.path).read()
