"""JSON that is no JSON Lines: an array of objects, or objects that each span several lines, read element by element.

What cannot be read costs the element that it is in: reading continues where the next one starts, which is known by what the
elements start with. Memory is bounded by the longest element.
"""

from __future__ import annotations

import codecs
import json
import re
from collections.abc import Iterator
from typing import Any

from foundray.contract import Unreadable
from foundray.data.files.compression import Broken
from foundray.data.formats.lines import LONGEST_ROW

CUT_SHORT = 16
"""Characters before the end of a text: of a literal or an escape that is cut off, json names the start."""
AROUND = 256
"""Characters before and behind the start of an element that tell what elements start with."""
_ENDS = re.compile(r"\r\n|\r|\n")
_KEY = re.compile(r'\{[ \t\r\n]*"(?:[^"\\]|\\.)*"')
_NO_UTF8 = re.compile("[\udc80-\udcff]")
_INDENTED = re.compile(r"[\r\n][ \t]*\Z")
_DECODERS = (
    json.JSONDecoder(),
    json.JSONDecoder(parse_int=lambda digits: 0),  # Python refuses integers of more than 4,300 digits; no row needs them
)


def begins(start: bytes) -> bool:
    """Whether a file that starts so holds an array of objects, or an object that its first line does not end."""
    text = start.decode("utf-8", "replace").lstrip("\ufeff \t\r\n")
    if not re.match(r"\[\s*(\{|\]|\Z)|\{", text):
        return False
    lines = [line for line in _ENDS.split(text) if line.strip()]
    if text[0] == "{" and (len(lines) == 1 or not _is_cut(lines[0].rstrip())):
        return False
    # Where the next line is a row, the file is JSON Lines, and its first line damaged.
    return len(lines) == 1 or not (_is_row(lines[1]) and (text[0] == "{" or _is_row(lines[0], list)))


def _is_row(line: str, kind: type = dict) -> bool:
    try:
        return isinstance(value_of(line), kind)
    except (json.JSONDecodeError, Unreadable):
        return False


def _is_cut(line: str) -> bool:
    try:
        value_of(line)
    except json.JSONDecodeError as error:
        return error.pos >= len(line) and not error.msg.startswith("Unterminated string")
    except Unreadable:
        pass
    return False


def value_of(text: str, field: str = "") -> Any:
    """The value that a text is. Raises JSONDecodeError, and Unreadable for what is JSON and cannot be used."""
    start = len(text) - len(text.lstrip(" \t\r\n"))
    value, end = _decoded(text, start)
    if rest := text[end:].lstrip(" \t\r\n"):
        raise json.JSONDecodeError("Extra data", text, len(text) - len(rest))
    _check_once(value, field, text, start, end)
    return value


def side_by_side(text: str) -> list[Any]:
    """The values in a text if they are several objects with nothing but spaces between them; else none."""
    found, rest = list[Any](), text.strip(" \t\r\n")
    try:
        while rest.startswith("{"):
            value, end = _decoded(rest, 0)
            found.append(value)
            rest = rest[end:].lstrip(" \t\r\n")
    except (json.JSONDecodeError, Unreadable):
        return []
    return [] if rest else found


def kind(value: Any) -> str:
    """What a value is called in JSON."""
    names = {dict: "an object", list: "an array", str: "a string", bool: "true or false", type(None): "null"}
    return names.get(type(value), "a number")


def _decoded(text: str, at: int) -> tuple[Any, int]:
    """The value that starts there, and its end. Raises JSONDecodeError and Unreadable."""
    for decoder in _DECODERS:
        try:
            return decoder.raw_decode(text, at)
        except json.JSONDecodeError:
            raise
        except RecursionError:
            break
        except ValueError:
            continue
    raise Unreadable("its values are nested too deeply")


def _check_once(value: Any, field: str, text: str, start: int, end: int) -> None:
    """Raises Unreadable for a field with several values, of which json takes the last."""
    if isinstance(value, dict) and field in value and text.count(json.dumps(field, ensure_ascii=False), start, end) > 1:
        pairs, _ = json.JSONDecoder(object_pairs_hook=list, parse_int=lambda digits: 0).raw_decode(text, start)
        values = [one for name, one in pairs if name == field]
        if any(one != values[0] for one in values):
            raise Unreadable(f"field {field!r} stands in it {len(values)} times, with different values")


class _CutOff(Unreadable):
    """An element that the file ends in."""


def elements(parts: Iterator[bytes | Unreadable], field: str) -> Iterator[tuple[int, Any]]:
    """(number, value) of each object or element of an array, from 1; an Unreadable in place of what is damaged."""
    return _Elements(parts, field).read()


class _Elements:
    def __init__(self, parts: Iterator[bytes | Unreadable], field: str):
        self.parts, self.field = parts, field
        self.decoder = codecs.getincrementaldecoder("utf-8")("surrogateescape")
        self.text, self.at = "", 0
        """What was read and is not done with, and how much of that was taken."""
        self.gap: Unreadable | None = None
        """What is missing behind `text`."""
        self.starts: str | None = None
        """What elements start with, from the start of the line if they start lines."""
        self.nested = False
        """Whether what is inside an element starts like one."""
        self.in_array = False

    def read(self) -> Iterator[tuple[int, Any]]:
        number = 0
        while character := self._next():
            if (character == "[" and not self.in_array) or character == "]":
                self.in_array = character == "["
                self.at += 1
            else:
                number += 1
                yield number, self._element()
        if self.in_array:
            yield number + 1, Unreadable("the array does not end: the file may be cut off here")

    def _next(self) -> str:
        """The next character that is not between elements; a space for a gap; nothing at the end."""
        while True:
            rest = self.text[self.at : self.at + AROUND]
            between = len(rest) - len(rest.lstrip(" \t\r\n,\ufeff"))
            self.at += between
            if between < len(rest):
                return rest[between]
            if self.at == len(self.text) and not self._read(1):
                return " " if self.gap else ""

    def _element(self) -> Any:
        """The value that starts here, or why it cannot be used; the next element follows."""
        try:
            return self._value()
        except Unreadable as error:
            if (isinstance(error, Broken) and error.whole) or self._skip() or isinstance(error, _CutOff | Broken):
                return error
            return Unreadable(f"{error}; the elements behind it cannot be told apart, and are lost with it")

    def _value(self) -> Any:
        """The value that starts here. Raises Unreadable: nothing was taken then, except of a value that ends."""
        while True:
            try:
                value, end = _decoded(self.text, self.at)
            except json.JSONDecodeError as error:
                size = len(self.text) - self.at
                if error.pos < len(self.text) - CUT_SHORT and not error.msg.startswith("Unterminated string"):
                    raise Unreadable(f"not JSON: {error.msg}, {error.pos - self.at:,} characters into it") from None
                if size > LONGEST_ROW:
                    raise Unreadable(f"an element of more than {LONGEST_ROW:,} characters") from None
                if self._read(size + 1):
                    continue
                if self.gap:
                    gap, self.gap, self.text, self.at = self.gap, None, "", 0
                    raise gap from None
                raise _CutOff("the file is cut off in it") from None
            if end < len(self.text) or isinstance(value, dict | list | str) or not self._read(1):
                break
        start, self.at = self.at, end
        self._learn(start, end)
        if not self.text.isascii() and _NO_UTF8.search(self.text, start, end):
            return Unreadable("not UTF-8")
        try:
            _check_once(value, self.field, self.text, start, end)
        except Unreadable as error:
            return error
        return value

    def _learn(self, start: int, end: int) -> None:
        """Remember what the element starts with."""
        before = self.text[max(0, start - AROUND) : start]
        key = _KEY.match(self.text, start, min(end, start + AROUND))
        indented = _INDENTED.search(before)
        if key:
            self.starts = indented[0] + "{" if indented else key[0]
            self.nested = self.nested or self.text.find(self.starts, start + 1, end) >= 0

    def _skip(self) -> bool:
        """Take all before the next element, or before the end; whether it is known what elements start with."""
        starts = self.starts
        if starts is None and (key := _KEY.match(self.text, self.at, self.at + AROUND)):
            # Of the first element nothing is known but how it starts itself: others may start lines.
            indented = _INDENTED.search(self.text[max(0, self.at - AROUND) : self.at])
            starts = indented[0] + "{" if indented else "\n" + key[0]
        if starts is None or self.nested:
            self.at = len(self.text)
            while self._read(1):
                self.at = len(self.text)
            self.in_array = False  # its end was not looked for
            return False
        self.at = min(self.at + 1, len(self.text))
        while (found := self.text.find(starts, self.at)) < 0:
            self.at = max(self.at, len(self.text) - len(starts) + 1)
            if not self._read(1):
                self.at = len(self.text)
                self.in_array = self.in_array and self.gap is not None
                return self.starts is not None
        self.at = found
        return True

    def _read(self, size: int) -> bool:
        """Read at least so many bytes more, if they are there; whether there were any."""
        read = list[str]()
        while size > 0 and self.gap is None and (part := next(self.parts, None)) is not None:
            if isinstance(part, Unreadable):
                self.gap = part
                break
            size -= len(part)
            read.append(self.decoder.decode(part))
        if read:
            kept = max(0, self.at - AROUND)
            self.text, self.at = self.text[kept:] + "".join(read), self.at - kept
        return bool(read)
