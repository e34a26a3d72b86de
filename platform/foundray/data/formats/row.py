"""What the readers of files yield: documents, and a BadRow in place of each part that cannot be used.

A long document is never in memory as a whole: its bytes are in a temporary file, and it is read part by part.
"""

from __future__ import annotations

import codecs
import io
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import IO, Any

from foundray.contract import Unreadable
from foundray.data.formats.not_text import NUL_RUN, NUL_SHARE, holds_nul, not_utf8
from foundray.errors import InputError

LONG = 2**20
"""Most bytes (UTF-8) of a short document, which is kept, tokenized and counted as a whole."""
PART = 2**18
"""Bytes, or characters, per part of a long document."""
BOM = codecs.BOM_UTF8


@dataclass(frozen=True)
class Document:
    """A text, and where it was found."""

    content: str | IO[bytes]
    """The text; for a long document perhaps a file of its UTF-8 bytes."""
    position: str = field(default="", compare=False)
    """Position in its file: `line 3`, `row 7`, `byte 0`."""
    known_size: int | None = field(default=None, compare=False, repr=False)
    """Its size in bytes, if it was counted before."""

    @property
    def text(self) -> str:
        """The whole text, however long. `parts` needs less memory."""
        return self.content if isinstance(self.content, str) else "".join(self.parts())

    @property
    def size(self) -> int:
        """Bytes in UTF-8."""
        if self.known_size is not None:
            return self.known_size
        if isinstance(self.content, str):
            return _size(self.content)
        return self.content.seek(0, io.SEEK_END)

    @property
    def long(self) -> bool:
        return self.size > LONG

    def parts(self) -> Iterator[str]:
        """The text in order: a short one as a whole, a long one in parts of at most `PART` characters."""
        if isinstance(self.content, str):
            yield from _slices(self.content) if self.long else [self.content]
            return
        decoder, at = codecs.getincrementaldecoder("utf-8")(), 0
        while block := self._block(at):
            at += len(block)
            yield decoder.decode(block)

    def _block(self, at: int) -> bytes:
        """Up to `PART` bytes from an offset. Each read seeks, so several readers may share the file."""
        assert not isinstance(self.content, str)
        self.content.seek(at)
        return self.content.read(PART)


@dataclass(frozen=True)
class BadRow:
    """A part of a file that cannot be used."""

    position: str
    """Position in the file: `line 3`, `row 7`, `byte 120`."""
    reason: str
    lost: int = 1
    """Number of units that are missing; 0 if nothing is lost, as for an empty row."""
    unit: str = "row"
    """A singular noun for what is missing: `row`, `case`, `member`, `document`."""

    @staticmethod
    def of(error: Unreadable, position: str) -> BadRow:
        return BadRow(position, str(error), error.lost, error.unit)


def empty(position: str, unit: str = "row") -> BadRow:
    """A BadRow for a row without content: it is counted, and nothing is lost."""
    return BadRow(position, "empty", 0, unit)


def text_of(value: Any, where: str, field: str, unit: str = "row") -> Document | BadRow:
    """The document in a field's value: text or UTF-8 bytes."""
    if isinstance(value, bytes):
        return decode(value, where, unit=unit)
    if not isinstance(value, str):
        return BadRow(where, f"{field!r} is {'missing' if value is None else 'not text'}", 1, unit)
    try:
        size = _size(value)
    except UnicodeEncodeError:
        return BadRow(where, "holds half a surrogate pair, which is not Unicode text", 1, unit)
    if not value or value.isspace():
        return empty(where, unit)
    if (count := value.count("\0")) and _is_binary(count, size, "\0" * NUL_RUN in value):
        first = len(value[: value.index("\0")].encode())
        return BadRow(where, holds_nul(value[:PART].encode(), count, size, first), 1, unit)
    if size <= LONG:
        return Document(value, where, size)
    builder = DocumentBuilder(where, unit=unit)  # so that a long value can be freed while its document is used
    for part in _slices(value):
        builder.add(part.encode())
    return builder.document()


def decode(content: bytes, where: str, at: Callable[[int], str] | None = None, unit: str = "row") -> Document | BadRow:
    """The document in UTF-8 bytes, without a byte order mark. `at` names the position of a bad byte by its offset."""
    if len(content) > LONG:
        builder = DocumentBuilder(where, at, unit)
        for start in range(0, len(content), PART):
            builder.add(content[start : start + PART])
        return builder.document()
    with_bom, content = len(content), content.removeprefix(BOM)
    try:
        text = content.decode()
    except UnicodeDecodeError as error:
        return _undecodable(content, error, with_bom - len(content), where, at, unit)
    if not text or text.isspace():
        return empty(where, unit)
    if (count := content.count(0)) and _is_binary(count, len(content), bytes(NUL_RUN) in content):
        return BadRow(where, holds_nul(content, count, len(content), content.index(0)), 1, unit)
    return Document(text, where, len(content))


class DocumentBuilder:
    """Builds a document from blocks of bytes, checked as they come. Few bytes stay in memory; many go to a temporary file."""

    def __init__(self, where: str, at: Callable[[int], str] | None = None, unit: str = "row"):
        """`where`, `at` and `unit`: as in `decode`."""
        self.where, self.at, self.unit = where, at, unit
        self.size = 0
        """Bytes added."""
        self.bad: BadRow | None = None
        """Why the document cannot be used. Further bytes are dropped."""
        self.buffer: list[bytes] = []
        self.buffered = 0
        self.long: _Spool | None = None

    def add(self, block: bytes) -> None:
        """Add the next bytes. Raises InputError if the temporary file has no room for them."""
        self.size += len(block)
        if self.bad is None:
            self.buffer.append(block)
            self.buffered += len(block)
            if self.size > LONG and self.buffered >= PART:
                self._spool()

    def document(self) -> Document | BadRow:
        """The document of all bytes added."""
        # A short document is checked as a whole.
        if self.size <= LONG:
            return decode(b"".join(self.buffer), self.where, self.at, self.unit)
        if self.bad is None:
            self._spool()
        if self.long is None:
            assert self.bad is not None
            return self.bad
        # A long one was checked block by block; what is left concerns all of it.
        try:
            self.long.end()
        except UnicodeDecodeError as error:
            offset = self.long.size - len(error.object)
            return _undecodable(error.object, error, offset, self.where, self.at, self.unit)
        if self.long.blank:
            return empty(self.where, self.unit)
        if self.long.nuls and _is_binary(self.long.nuls, self.long.size, self.long.nul_run):
            return BadRow(self.where, self.long.nul_reason(), 1, self.unit)
        return Document(self.long.file, self.where, self.long.kept)

    def _spool(self) -> None:
        """Move the buffered bytes to the temporary file."""
        content, self.buffer, self.buffered = b"".join(self.buffer), [], 0
        self.long = self.long or _Spool()
        try:
            self.long.write(content)
        except UnicodeDecodeError as error:
            offset = self.long.size - len(self.long.pending)
            self.bad, self.long = _undecodable(error.object, error, offset, self.where, self.at, self.unit), None


class _Spool:
    """A temporary file of UTF-8 bytes without a byte order mark, and facts about them."""

    def __init__(self) -> None:
        self.file: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115 - it closes when its document is freed
        self.decoder = codecs.getincrementaldecoder("utf-8")()
        self.start = self.end_of_last = b""
        self.size = self.kept = self.nuls = self.first_nul = 0
        self.nul_run, self.blank = False, True

    @property
    def pending(self) -> bytes:
        """The first bytes of a character whose last bytes have not come yet."""
        return self.decoder.getstate()[0]

    def write(self, block: bytes) -> None:
        """Append a block. Raises InputError if there is no room, and UnicodeDecodeError of the pending bytes and the block."""
        text = self.decoder.decode(block)
        self.blank = self.blank and not text.strip().strip("\ufeff")
        if count := block.count(0):
            self.first_nul = self.first_nul if self.nuls else self.size + block.index(0)
            self.nuls += count
            self.nul_run = self.nul_run or bytes(NUL_RUN) in self.end_of_last + block
        self.end_of_last = block[1 - NUL_RUN :]
        kept = block
        if self.size == 0:
            self.start, kept = block[:PART], block.removeprefix(BOM)
        self.size += len(block)
        self.kept += len(kept)
        try:
            self.file.write(kept)
        except OSError as error:
            raise InputError(
                f"a long document does not fit in {tempfile.gettempdir()}: {error.strerror}; set TMPDIR to another folder"
            ) from None

    def end(self) -> None:
        """Check the end. Raises UnicodeDecodeError if a character is cut off."""
        self.decoder.decode(b"", final=True)

    def nul_reason(self) -> str:
        return holds_nul(self.start, self.nuls, self.size, self.first_nul)


def _size(text: str) -> int:
    """Bytes in UTF-8. Raises UnicodeEncodeError."""
    return len(text.encode()) if len(text) <= PART else sum(len(part.encode()) for part in _slices(text))


def _slices(text: str) -> Iterator[str]:
    return (text[start : start + PART] for start in range(0, len(text), PART))


def _is_binary(nuls: int, size: int, in_a_row: bool) -> bool:
    """Whether the NUL bytes show that the content is not text. A few stray ones are kept as characters."""
    return in_a_row or nuls > size * NUL_SHARE


def _undecodable(
    content: bytes, error: UnicodeDecodeError, offset: int, where: str, at: Callable[[int], str] | None, unit: str
) -> BadRow:
    """A BadRow for bytes that are not UTF-8. `content` surrounds the error; `offset` is that of `content` in the document."""
    offset += error.start
    reason = not_utf8(content, error.start, offset, at is None, error.reason == "unexpected end of data")
    return BadRow(at(offset) if at else where, reason, 1, unit)
