"""JSON that is not JSON Lines: an array of objects, or objects over several lines, read element by element.

Damage costs the element that it hits. Reading continues at the next one, which is found by the prefix that elements share.
Memory is bounded by the longest element.
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

CUT_MARGIN = 16
"""Characters before the end of a text. An error there may be a cut-off literal or escape, whose start json reports."""
CONTEXT = 256
"""Characters before and after the start of an element from which its prefix is learned."""
_LINE_ENDS = re.compile(r"\r\n|\r|\n")
_KEY = re.compile(r'\{[ \t\r\n]*"(?:[^"\\]|\\.)*"')
_NOT_UTF8 = re.compile("[\udc80-\udcff]")
_INDENTED = re.compile(r"[\r\n][ \t]*\Z")
_DECODERS = (
    json.JSONDecoder(),
    json.JSONDecoder(parse_int=lambda digits: 0),  # Python refuses integers of more than 4,300 digits; no row needs them
)


def is_in_elements(start: bytes) -> bool:
    """Whether a file with this start holds an array of objects, or an object over several lines."""
    text = start.decode("utf-8", "replace").lstrip("\ufeff \t\r\n")
    if not re.match(r"\[\s*(\{|\]|\Z)|\{", text):
        return False
    lines = [line for line in _LINE_ENDS.split(text) if line.strip()]
    if text[0] == "{" and (len(lines) == 1 or not _is_cut(lines[0].rstrip())):
        return False
    # If the second line is a row, the file is JSON Lines with a damaged first line.
    return len(lines) == 1 or not (_is_row(lines[1]) and (text[0] == "{" or _is_row(lines[0], list)))


def _is_row(line: str, expected: type = dict) -> bool:
    try:
        return isinstance(value_of(line), expected)
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
    """Parse a text as one JSON value. Raises JSONDecodeError, and Unreadable for JSON that cannot be used."""
    start = len(text) - len(text.lstrip(" \t\r\n"))
    value, end = _decoded(text, start)
    if rest := text[end:].lstrip(" \t\r\n"):
        raise json.JSONDecodeError("Extra data", text, len(text) - len(rest))
    _check_unique(value, field, text, start, end)
    return value


def adjacent_objects(text: str) -> list[Any]:
    """The objects in a text that holds nothing but objects and white space; otherwise an empty list."""
    found, rest = list[Any](), text.strip(" \t\r\n")
    try:
        while rest.startswith("{"):
            value, end = _decoded(rest, 0)
            found.append(value)
            rest = rest[end:].lstrip(" \t\r\n")
    except (json.JSONDecodeError, Unreadable):
        return []
    return [] if rest else found


def json_type(value: Any) -> str:
    """The name of a value's JSON type, with its article."""
    names = {dict: "an object", list: "an array", str: "a string", bool: "true or false", type(None): "null"}
    return names.get(type(value), "a number")


def _decoded(text: str, at: int) -> tuple[Any, int]:
    """(value that starts at an offset, its end). Raises JSONDecodeError and Unreadable."""
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


def _check_unique(value: Any, field: str, text: str, start: int, end: int) -> None:
    """Raise Unreadable if a field occurs several times with different values, of which json takes the last."""
    if isinstance(value, dict) and field in value and text.count(json.dumps(field, ensure_ascii=False), start, end) > 1:
        pairs, _ = json.JSONDecoder(object_pairs_hook=list, parse_int=lambda digits: 0).raw_decode(text, start)
        values = [one for name, one in pairs if name == field]
        if any(one != values[0] for one in values):
            raise Unreadable(f"field {field!r} occurs {len(values)} times, with different values")


class _CutOff(Unreadable):
    """The file ends inside an element."""


def elements(parts: Iterator[bytes | Unreadable], field: str) -> Iterator[tuple[int, Any]]:
    """(number, value) of each element, counted from 1, with an Unreadable in place of a damaged one."""
    return _Elements(parts, field).read()


class _Elements:
    def __init__(self, parts: Iterator[bytes | Unreadable], field: str):
        self.parts, self.field = parts, field
        self.decoder = codecs.getincrementaldecoder("utf-8")("surrogateescape")
        self.text, self.at = "", 0
        """Text in memory, and the offset in it up to which it was taken."""
        self.gap: Unreadable | None = None
        """The damage that follows `text`, if any."""
        self.prefix: str | None = None
        """The text that elements start with, including the line break and indentation before it, if any."""
        self.nested = False
        """Whether the prefix also occurs inside elements, so that it does not mark their starts."""
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
        """The next character that is not between elements; a space for a gap; an empty string at the end."""
        while True:
            rest = self.text[self.at : self.at + CONTEXT]
            between = len(rest) - len(rest.lstrip(" \t\r\n,\ufeff"))
            self.at += between
            if between < len(rest):
                return rest[between]
            if self.at == len(self.text) and not self._read(1):
                return " " if self.gap else ""

    def _element(self) -> Any:
        """Take the value that starts here, or an Unreadable, and go to the next element."""
        try:
            return self._value()
        except Unreadable as error:
            if (isinstance(error, Broken) and error.whole) or self._skip() or isinstance(error, _CutOff | Broken):
                return error
            return Unreadable(f"{error}; the elements after it cannot be separated, and are lost with it")

    def _value(self) -> Any:
        """Take the value that starts here. Raises Unreadable before anything is taken, except for text before a gap."""
        while True:
            try:
                value, end = _decoded(self.text, self.at)
            except json.JSONDecodeError as error:
                # Damage, or an element that continues: read as much again, up to the longest row.
                size = len(self.text) - self.at
                if error.pos < len(self.text) - CUT_MARGIN and not error.msg.startswith("Unterminated string"):
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
        # A value was read: learn its prefix, and check what json does not.
        start, self.at = self.at, end
        self._learn_prefix(start, end)
        if not self.text.isascii() and _NOT_UTF8.search(self.text, start, end):
            return Unreadable("not UTF-8")
        try:
            _check_unique(value, self.field, self.text, start, end)
        except Unreadable as error:
            return error
        return value

    def _learn_prefix(self, start: int, end: int) -> None:
        """Learn the prefix of elements from one that was read."""
        before = self.text[max(0, start - CONTEXT) : start]
        key = _KEY.match(self.text, start, min(end, start + CONTEXT))
        indented = _INDENTED.search(before)
        if key:
            self.prefix = indented[0] + "{" if indented else key[0]
            self.nested = self.nested or self.text.find(self.prefix, start + 1, end) >= 0

    def _skip(self) -> bool:
        """Go to the next element, or to the end. Returns whether the prefix of elements is known."""
        prefix = self.prefix
        if prefix is None and (key := _KEY.match(self.text, self.at, self.at + CONTEXT)):
            # Of the first element only its own key is known. Expect others at the starts of lines.
            indented = _INDENTED.search(self.text[max(0, self.at - CONTEXT) : self.at])
            prefix = indented[0] + "{" if indented else "\n" + key[0]
        # Without a usable prefix, all that follows is lost.
        if prefix is None or self.nested:
            self.at = len(self.text)
            while self._read(1):
                self.at = len(self.text)
            self.in_array = False  # its end was skipped
            return False
        # Search for the prefix after the damaged element's own start.
        self.at = min(self.at + 1, len(self.text))
        while (found := self.text.find(prefix, self.at)) < 0:
            self.at = max(self.at, len(self.text) - len(prefix) + 1)
            if not self._read(1):
                self.at = len(self.text)
                self.in_array = self.in_array and self.gap is not None
                return self.prefix is not None
        self.at = found
        return True

    def _read(self, size: int) -> bool:
        """Read at least `size` more bytes, fewer before a gap or the end. Returns whether there were any."""
        read = list[str]()
        while size > 0 and self.gap is None and (part := next(self.parts, None)) is not None:
            if isinstance(part, Unreadable):
                self.gap = part
                break
            size -= len(part)
            read.append(self.decoder.decode(part))
        if read:
            kept = max(0, self.at - CONTEXT)
            self.text, self.at = self.text[kept:] + "".join(read), self.at - kept
        return bool(read)
