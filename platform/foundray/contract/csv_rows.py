"""Rows of delimited text, with the lines that they begin in. Damage costs only the rows that it damages.

A quote that never closes would turn all that follows into one field. A field over several lines is suspect if the file ends
inside it, if a quote inside it is followed by text (strictly, the field ends there), if it makes its row too short or too
long, or if it has more than `SUSPECT` lines. If the lines inside a suspect field are rows when each is read on its own, the
quote never closes: the row up to the line that opens it is lost, and reading continues with the next line.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator, Sequence
from typing import Any

from foundray.contract import Unreadable
from foundray.contract.columns import check
from foundray.wording.words import plural

DELIMITERS = ",;\t|"
"""Possible delimiters, the most common first."""
LONGEST = 2**28
"""Most bytes in a line; csv's own limit for a field is 131,072 characters. Reading takes up to 6 bytes per character."""
LONGEST_OF_SEVERAL = 2**26
"""Most characters in a row over several lines: these take more memory, and more often mean a quote that never closes."""
SUSPECT = 1000
"""Lines of a quoted field that must look like rows before its quote counts as one that never closes (judgement: few tables
inside a field are longer and have as many columns)."""
JUDGED = 20
"""Number of lines that decide whether a field contains rows: the last ones, since the field's own text comes first."""
_LINE = re.compile(r"[^\r\n]*(?:\r\n|\r|\n)|[^\r\n]+")
_ENDS = re.compile(r"\r\n|\r|\n")
LARGE = 2**20
"""Characters in a row after which csv's reader, which keeps 4 bytes of memory for each, is replaced."""
SNIFFED = 50
"""Most lines that choose a delimiter, and about how many characters."""
SNIFFED_CHARACTERS = 2**16


class CsvRows:
    """Rows of one file, under its header."""

    def __init__(self, stream: Any, wanted: Sequence[str] = (), delimiters: str = DELIMITERS):
        """Read the header. The delimiter is the one under which the header has all `wanted` columns.

        `stream` gives bytes. If it raises Unreadable, that is a break, and reading continues after it; the error may say
        that nothing is missing there (`whole`), or that a line starts there (`line`).
        Raises Unreadable for a file without a header; an empty one loses nothing.
        """
        self._lines = _Lines(stream)
        self.delimiter = self._sniff_delimiter(wanted, delimiters)
        self.names: list[str] = []
        """Fields of the header."""
        self._row_lines: list[str] = []
        """Lines of the row that is being read."""
        self._cut = False
        """Whether the file ends inside that row."""
        self._reader: Iterator[list[str]] = iter(())
        self._restart()
        for _, header in self.records():
            if isinstance(header, Unreadable):
                raise Unreadable(f"its header cannot be read: {header}", unit="file")
            self.names = header
            break
        if not self.names:
            raise Unreadable("empty", 0, "file")
        if any("\0" in name for name in self.names):
            raise Unreadable("its header holds NUL bytes: it is UTF-16, or not text; CSV is read as UTF-8", unit="file")

    def column(self, name: str) -> Iterator[tuple[int, str | Unreadable]]:
        """Yield (line, field) for each row. Raises Unreadable for a column that is missing or appears twice."""
        check(self.names, [name])
        at = self.names.index(name)
        for line, row in self.rows():
            yield line, row if isinstance(row, Unreadable) else row[at]

    def rows(self) -> Iterator[tuple[int, list[str] | Unreadable]]:
        """Yield (line, fields or why they are lost) for each row, with as many fields as the header. Lines count from 1.

        A byte that is not UTF-8 appears as half a surrogate pair in its field: see `raw`.
        """
        for line, row in self.records():
            if isinstance(row, list) and len(row) != len(self.names):
                yield line, Unreadable(f"{len(row)} fields under a header of {len(self.names)}")
            else:
                yield line, row

    def records(self) -> Iterator[tuple[int, list[str] | Unreadable]]:
        """Like `rows`, including rows that have too few or too many fields."""
        while True:
            start = self._lines.number + 1
            try:
                row: list[str] | Unreadable = self._checked(next(self._reader))
            except StopIteration:
                if self._lines.broken:
                    yield start, self._lines.broken
                    self._lines.broken = None
                if self._lines.ended:
                    return
                self._restart()
                continue
            except (csv.Error, _Suspect) as error:
                row = self._recover(start, self._cut or isinstance(error, csv.Error))
            if isinstance(row, Unreadable) or sum(map(len, self._row_lines)) > LARGE:
                self._restart()
            self._row_lines.clear()
            if row:
                yield start, row

    def _recover(self, start: int, broken: bool) -> list[str] | Unreadable:
        """Decide on a suspect row that starts in line `start`: the row after all, or why it is lost. `broken`: csv failed."""
        if not self._rows_inside(broken):
            # The row may be intended: quotes inside a quoted field that are not doubled.
            self._lines.put_back(self._row_lines)
            self._restart(strict=False)
            try:
                row = self._checked(next(self._reader))
            except (csv.Error, _Suspect):
                broken = self._cut
            else:
                row_lines = self._row_lines
                self._restart()
                self._row_lines = row_lines
                return row
        if isinstance(self._row_lines[0], _TooLong):
            return Unreadable(f"a line of more than {LONGEST:,} bytes")
        opens = self._opening_line()
        never = f"the quote that opens in line {start + opens} never closes"
        if self._rows_inside(broken):
            self._lines.put_back(self._row_lines[opens + 1 :])
            return Unreadable(f"{never}; the rows after that line are read")
        following = len(self._row_lines) - 1 - opens
        return Unreadable(f"{never}; what follows is lost with it: {plural(following, 'line')}" if following else never)

    def _restart(self, strict: bool = True) -> None:
        """Start a new row at the next line."""
        self._row_lines, self._cut = [], False
        self._reader = csv.reader(self._feed(), delimiter=self.delimiter, strict=strict)

    def _feed(self) -> Iterator[str]:
        """Pass lines to csv. Raises _Suspect if they are too many or too long for one row."""
        csv.field_size_limit(LONGEST)  # global in the process, and others may have lowered it
        size = 0
        for line in self._lines:
            size = len(line) if not self._row_lines else size + len(line)
            self._row_lines.append(line)
            several = len(self._row_lines) > 1
            if isinstance(line, _TooLong) or (several and (size > LONGEST_OF_SEVERAL or self._are_several_rows())):
                raise _Suspect
            yield line
        if self._row_lines:
            self._cut = True
            raise _Suspect

    def _checked(self, row: list[str]) -> list[str]:
        """Return the row. Raises _Suspect if its length is wrong because a field over several lines contains rows."""
        if len(self._row_lines) > 1 and self.names and len(row) != len(self.names) and self._rows_inside():
            raise _Suspect
        return row

    def _are_several_rows(self) -> bool:
        """Whether the row's lines, checked every `SUSPECT` lines, are several rows. No header is that long."""
        if len(self._row_lines) % SUSPECT != 1:
            return False
        return not self.names or (len(self.names) > 1 and self._row_share(self._row_lines[-SUSPECT:]) > 0.9)

    def _rows_inside(self, broken: bool = False) -> bool:
        """Whether the lines after the one that opens the quote contain rows."""
        inside = self._row_lines[self._opening_line() + 1 :]
        if len(self.names) < 2:
            # Every line is a valid row of one field, so only `broken` is evidence. A header contains no rows.
            return bool(inside and self.names) and broken
        return self._row_share(inside[-JUDGED:]) > 0.5

    def _row_share(self, lines: Sequence[str]) -> float:
        """Fraction of the lines, blank ones aside, that are rows on their own, or begin one by opening a quote."""
        rows = found = 0
        for line in lines:
            continues = 0  # whether csv wants a second line

            def one(line: str = line) -> Iterator[str]:
                nonlocal continues
                yield line
                continues = 1

            try:
                row = next(csv.reader(one(), delimiter=self.delimiter), [])
            except csv.Error:
                row = [""]
            found += bool(row)
            rows += 1 < len(row) <= len(self.names) if continues else len(row) == len(self.names)
        return rows / max(1, found)

    def _opening_line(self) -> int:
        """Index, in the row's lines, of the one that opens the quoted field which the last line is inside of, or ends."""
        lines = self._row_lines if self._cut else self._row_lines[:-1]
        field = next(csv.reader(lines, delimiter=self.delimiter), [""])[-1]
        spanned = len(_ENDS.findall(field)) + (not field.endswith(("\n", "\r")))
        return max(0, len(lines) - spanned)

    def _sniff_delimiter(self, wanted: Sequence[str], delimiters: str) -> str:
        ahead = self._lines.peek()
        if ahead and (written := re.fullmatch(r'"?sep=([,;|\t])"?[\r\n]*', ahead[0])):  # Excel writes such a line
            next(self._lines)
            return written[1]
        csv.field_size_limit(LONGEST)
        shares = {}
        for delimiter in delimiters:
            rows = [row for row in csv.reader(ahead, delimiter=delimiter) if row] or [[]]
            if wanted and set(wanted) <= set(rows[0]):
                return delimiter
            shares[delimiter] = sum(len(row) == len(rows[0]) for row in rows) / len(rows) if len(rows[0]) > 1 else 0.0
        # Most lines should be as long as the header. On a tie take the last delimiter: a comma may be part of numbers.
        best = max(reversed(delimiters), key=lambda delimiter: shares[delimiter])
        return best if shares[best] else delimiters[0]


class _Suspect(Exception):
    """A row that spans too many lines or characters."""


class _TooLong(str):
    """Stands for a line that is too long to be read."""


class _Lines:
    """Lines of a byte stream, with their line ends. Lines can be put back. Iteration stops at each break of the stream."""

    def __init__(self, stream: Any):
        self.stream = stream
        self.number = 0
        """Lines given so far."""
        self.waiting: list[str] = []
        """Lines read but not yet given, or put back; the next one last."""
        self.broken: Unreadable | None = None
        """The break where iteration stopped; it continues once this is None."""
        self.ended = False
        """Whether nothing follows the break."""
        self.cut = False
        """Whether the stream stands inside a line that was lost."""

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        if not self.waiting and not self._read():
            raise StopIteration
        self.number += 1
        return self.waiting.pop()

    def put_back(self, lines: Sequence[str]) -> None:
        """Give these lines again."""
        self.waiting += reversed(lines)
        self.number -= len(lines)

    def peek(self) -> list[str]:
        """Return the first lines without consuming them. Raises Unreadable if their byte order mark is not UTF-8's."""
        lines: list[str] = []
        while len(lines) < SNIFFED and sum(map(len, lines)) < SNIFFED_CHARACTERS and self._read():
            lines += reversed(self.waiting)
            self.waiting.clear()
        if lines and lines[0].startswith(("\udcff\udcfe", "\udcfe\udcff", "\0\0\udcfe\udcff")):
            raise Unreadable("it is UTF-16 or UTF-32, by its byte order mark; save it as UTF-8", unit="file")
        if lines:
            lines[0] = lines[0].removeprefix("\ufeff")
        self.waiting = [line for line in reversed(lines) if line]
        return lines

    def _read(self) -> bool:
        """Read up to the next \\n: one line, or several that end in \\r. Returns whether there was anything."""
        while not self.ended and self.broken is None:
            try:
                line = self.stream.readline(LONGEST + 1)
                part = line  # of an overlong line, the start
                while (self.cut or len(line) > LONGEST) and part and not part.endswith(b"\n"):
                    part = self.stream.readline(LARGE)
            except Unreadable as error:  # the stream can still be read
                self.broken = Unreadable(f"the compressed stream is broken: {error}", error.lost, error.unit)
                self.cut = not (getattr(error, "whole", False) or getattr(error, "line", False))
            except OSError as error:
                self.broken = Unreadable(f"the rest of the file cannot be read ({error})", unit="file")
                self.ended = True
            else:
                self.ended, cut, self.cut = not line, self.cut, False
                if line and not cut:
                    if len(line) > LONGEST:
                        self.waiting = [_TooLong("\n")]
                    else:  # a byte that is not UTF-8 costs only its own row
                        text = line.decode("utf-8", "surrogateescape")
                        ends = 2 if text.endswith("\r\n") else 1
                        several = text.find("\r", 0, len(text) - ends) >= 0
                        self.waiting = _LINE.findall(text)[::-1] if several else [text]
                    return True
        return False


def raw(field: str) -> bytes | None:
    """Bytes of a field that is not UTF-8; None for UTF-8."""
    wrong = not field.isascii() and re.search("[\udc80-\udcff]", field)
    return field.encode("utf-8", "surrogateescape") if wrong else None
