"""What a reader of files yields: documents, and what stands in place of what cannot be used.

A long document never lies in memory as a whole: its bytes are kept in a temporary file, and it is read part by part.
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
"""Bytes of UTF-8 up to which a document is short: it is held, tokenized and counted as a whole."""
PART = 2**18
"""Bytes, or characters, of a long document that are read together."""
MARK = codecs.BOM_UTF8


@dataclass(frozen=True)
class Document:
    """A text."""

    content: str | IO[bytes]
    """The text; of a long document it may be a file of UTF-8 bytes."""
    position: str = field(default="", compare=False)
    """Where in its file: `line 3`, `row 7`, `byte 0`."""
    known: int | None = field(default=None, compare=False, repr=False)
    """Its size, if it was counted before."""

    @property
    def text(self) -> str:
        """The whole text, however long; `parts` needs less memory."""
        return self.content if isinstance(self.content, str) else "".join(self.parts())

    @property
    def size(self) -> int:
        """Bytes in UTF-8."""
        if self.known is not None:
            return self.known
        if isinstance(self.content, str):
            return _size(self.content)
        return self.content.seek(0, io.SEEK_END)

    @property
    def long(self) -> bool:
        return self.size > LONG

    def parts(self) -> Iterator[str]:
        """The text in order: a short one as it is, a long one in parts of at most `PART` characters."""
        if isinstance(self.content, str):
            yield from _slices(self.content) if self.long else [self.content]
            return
        decoder, at = codecs.getincrementaldecoder("utf-8")(), 0
        while block := self._block(at):
            at += len(block)
            yield decoder.decode(block)

    def _block(self, at: int) -> bytes:
        """Bytes from an offset: several readers of the parts do not disturb each other."""
        assert not isinstance(self.content, str)
        self.content.seek(at)
        return self.content.read(PART)


@dataclass(frozen=True)
class BadRow:
    """A part of a file that cannot be used."""

    position: str
    """Where in the file: `line 3`, `row 7`, `byte 120`."""
    reason: str
    lost: int = 1
    """Units that are missing; 0 for what was empty, so that nothing is lost."""
    unit: str = "row"
    """The noun, in the singular, for what is missing: `row`, `case`, `member`, `document`."""

    @staticmethod
    def of(error: Unreadable, position: str) -> BadRow:
        return BadRow(position, str(error), error.lost, error.unit)


def empty(position: str, unit: str = "row") -> BadRow:
    """In place of a row without content: it is counted, and nothing is lost."""
    return BadRow(position, "empty", 0, unit)


def text_of(value: Any, where: str, field: str, unit: str = "row") -> Document | BadRow:
    """The document in a field's value: text, or UTF-8 bytes."""
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
    if (count := value.count("\0")) and _no_strays(count, size, "\0" * NUL_RUN in value):
        first = len(value[: value.index("\0")].encode())
        return BadRow(where, holds_nul(value[:PART].encode(), count, size, first), 1, unit)
    if size <= LONG:
        return Document(value, where, size)
    gathering = Gathering(where, unit=unit)  # so that what is held of a long value is free while its document is used
    for part in _slices(value):
        gathering.add(part.encode())
    return gathering.document()


def decode(content: bytes, where: str, at: Callable[[int], str] | None = None, unit: str = "row") -> Document | BadRow:
    """The document in UTF-8 bytes, without a byte order mark; `at` names the position of a bad byte, by its offset."""
    if len(content) > LONG:
        gathering = Gathering(where, at, unit)
        for start in range(0, len(content), PART):
            gathering.add(content[start : start + PART])
        return gathering.document()
    marked, content = len(content), content.removeprefix(MARK)
    try:
        text = content.decode()
    except UnicodeDecodeError as error:
        return _undecodable(content, error, marked - len(content), where, at, unit)
    if not text or text.isspace():
        return empty(where, unit)
    if (count := content.count(0)) and _no_strays(count, len(content), bytes(NUL_RUN) in content):
        return BadRow(where, holds_nul(content, count, len(content), content.index(0)), 1, unit)
    return Document(text, where, len(content))


class Gathering:
    """A document that comes in blocks of bytes: few are kept in memory, many in a temporary file, and checked as they come."""

    def __init__(self, where: str, at: Callable[[int], str] | None = None, unit: str = "row"):
        """`where`, `at` and `unit` as `decode` takes them."""
        self.where, self.at, self.unit = where, at, unit
        self.size = 0
        """Bytes added."""
        self.bad: BadRow | None = None
        """Why the document cannot be used; further bytes are dropped."""
        self.held: list[bytes] = []
        self.held_size = 0
        self.long: _Spool | None = None

    def add(self, block: bytes) -> None:
        """The next bytes. Raises InputError if the temporary file cannot hold them."""
        self.size += len(block)
        if self.bad is None:
            self.held.append(block)
            self.held_size += len(block)
            if self.size > LONG and self.held_size >= PART:
                self._spool()

    def document(self) -> Document | BadRow:
        """What came, as one document."""
        if self.size <= LONG:
            return decode(b"".join(self.held), self.where, self.at, self.unit)
        if self.bad is None:
            self._spool()
        if self.long is None:
            assert self.bad is not None
            return self.bad
        try:
            self.long.end()
        except UnicodeDecodeError as error:
            offset = self.long.size - len(error.object)
            return _undecodable(error.object, error, offset, self.where, self.at, self.unit)
        if self.long.blank:
            return empty(self.where, self.unit)
        if self.long.nuls and _no_strays(self.long.nuls, self.long.size, self.long.nul_run):
            return BadRow(self.where, self.long.nul_reason(), 1, self.unit)
        return Document(self.long.file, self.where, self.long.kept)

    def _spool(self) -> None:
        """Move what is held to the temporary file."""
        content, self.held, self.held_size = b"".join(self.held), [], 0
        self.long = self.long or _Spool()
        try:
            self.long.write(content)
        except UnicodeDecodeError as error:
            offset = self.long.size - len(self.long.pending)
            self.bad, self.long = _undecodable(error.object, error, offset, self.where, self.at, self.unit), None


class _Spool:
    """A temporary file of UTF-8 bytes, without a byte order mark, and what was seen in them."""

    def __init__(self) -> None:
        self.file: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115 - it closes as its document is forgotten
        self.decoder = codecs.getincrementaldecoder("utf-8")()
        self.start = self.end_of_last = b""
        self.size = self.kept = self.nuls = self.first_nul = 0
        self.nul_run, self.blank = False, True

    @property
    def pending(self) -> bytes:
        """The beginning of a character whose end has not come yet."""
        return self.decoder.getstate()[0]

    def write(self, block: bytes) -> None:
        """Raises UnicodeDecodeError, whose object is what was pending and the block, and InputError if there is no room."""
        text = self.decoder.decode(block)
        self.blank = self.blank and not text.strip().strip("\ufeff")
        if count := block.count(0):
            self.first_nul = self.first_nul if self.nuls else self.size + block.index(0)
            self.nuls += count
            self.nul_run = self.nul_run or bytes(NUL_RUN) in self.end_of_last + block
        self.end_of_last = block[1 - NUL_RUN :]
        kept = block
        if self.size == 0:
            self.start, kept = block[:PART], block.removeprefix(MARK)
        self.size += len(block)
        self.kept += len(kept)
        try:
            self.file.write(kept)
        except OSError as error:
            raise InputError(
                f"a long document does not fit in {tempfile.gettempdir()}: {error.strerror}; TMPDIR names another folder"
            ) from None

    def end(self) -> None:
        """Raises UnicodeDecodeError if a character is cut off."""
        self.decoder.decode(b"", final=True)

    def nul_reason(self) -> str:
        return holds_nul(self.start, self.nuls, self.size, self.first_nul)


def _size(text: str) -> int:
    """Bytes in UTF-8. Raises UnicodeEncodeError."""
    return len(text.encode()) if len(text) <= PART else sum(len(part.encode()) for part in _slices(text))


def _slices(text: str) -> Iterator[str]:
    return (text[start : start + PART] for start in range(0, len(text), PART))


def _no_strays(nuls: int, size: int, in_a_row: bool) -> bool:
    """Whether NUL bytes say that it is no text. Strays are kept, as characters like others."""
    return in_a_row or nuls > size * NUL_SHARE


def _undecodable(
    content: bytes, error: UnicodeDecodeError, offset: int, where: str, at: Callable[[int], str] | None, unit: str
) -> BadRow:
    """`offset` is that of the error's bytes in the document, and `content` is what stands around it."""
    offset += error.start
    reason = not_utf8(content, error.start, offset, at is None, error.reason == "unexpected end of data")
    return BadRow(at(offset) if at else where, reason, 1, unit)
