"""What a reader of files yields: documents, and what stands in place of what cannot be used."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from foundray.contract import Unreadable


@dataclass(frozen=True)
class Document:
    text: str


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


def text_of(value: Any, where: str, field: str) -> Document | BadRow:
    """The document in a field's value: text, or UTF-8 bytes."""
    if isinstance(value, bytes):
        return decode(value, where)
    if not isinstance(value, str):
        return BadRow(where, f"{field!r} is {'missing' if value is None else 'not text'}")
    try:
        value.encode("utf-8")
    except UnicodeEncodeError:
        return BadRow(where, "holds half a surrogate pair, which is not Unicode text")
    return Document(value) if value.strip() else empty(where)


def decode(content: bytes, where: str, at: Callable[[int], str] | None = None) -> Document | BadRow:
    """The document in UTF-8 bytes; `at` names the position of a bad byte, by its offset."""
    try:
        text = content.decode("utf-8")
    except UnicodeDecodeError as error:
        return BadRow(at(error.start) if at else where, f"not UTF-8 (byte 0x{content[error.start]:02x})")
    return Document(text) if text.strip() else empty(where)
