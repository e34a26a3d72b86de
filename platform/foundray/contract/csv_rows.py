"""Rows of delimited text, with the lines that they begin in. What is damaged costs the rows that it damages.

A quote that never closes would make one field of all that follows. A field over several lines is suspect if the file ends
inside it, if a quote inside it is followed by text (strictly, the field ends there), if it makes its row too short or too
long, or if it has more than `SUSPECT` lines. If the lines inside a suspect field are rows, each read on its own, its quote
never closes: the row up to the line that opens it is lost, and reading continues with the next line.
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
"""What may stand between fields, the usual one first."""
LONGEST = 2**28
"""Bytes of a line, at most; csv's own limit for a field is 131,072 characters. Reading takes up to 6 bytes per character."""
LONGEST_OF_SEVERAL = 2**26
"""Characters of a row over several lines, at most: these take more memory, and more often mean a quote that never closes."""
SUSPECT = 1000
"""Lines of a quoted field that all look like rows before its quote is taken for one that never closes (judgement: few tables
inside a field are longer and have as many columns)."""
JUDGED = 20
"""Lines that tell whether the lines inside a field are rows: the last ones, since the field's own text comes first."""
_LINE = re.compile(r"[^\r\n]*(?:\r\n|\r|\n)|[^\r\n]+")
_ENDS = re.compile(r"\r\n|\r|\n")
LARGE = 2**20
"""Characters of a row after which csv's reader, which keeps 4 bytes of memory for each, is replaced."""
SNIFFED = 50
"""Lines by which a delimiter is chosen, at most, and their characters, about."""
SNIFFED_CHARACTERS = 2**16


class CsvRows:
    """The rows of one file, under its header."""

    def __init__(self, stream: Any, wanted: Sequence[str] = (), delimiters: str = DELIMITERS):
        """Reads the header. The delimiter is the one by which it holds all that is `wanted`.

        `stream` gives bytes; what it raises as Unreadable is a break, behind which it is read on: it may say that nothing is
        missing there (`whole`), or that a line starts there (`line`).
        Raises Unreadable for a file without a header; nothing is lost if it is empty.
        """
        self._lines = _Lines(stream)
        self.delimiter = self._chosen(wanted, delimiters)
        self.names: list[str] = []
        """The header's fields."""
        self._taken: list[str] = []
        """The lines of the row that is being read."""
        self._cut = False
        """Whether the file ends inside it."""
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
        """(line, field) of each row. Raises Unreadable for a column that is not there, or is there twice."""
        check(self.names, [name])
        at = self.names.index(name)
        for line, row in self.rows():
            yield line, row if isinstance(row, Unreadable) else row[at]

    def rows(self) -> Iterator[tuple[int, list[str] | Unreadable]]:
        """(line, fields) of each row, with as many fields as the header, or why it is lost. Lines count from 1.

        A byte that is not UTF-8 is half a surrogate pair in its field: see `raw`.
        """
        for line, row in self.records():
            if isinstance(row, list) and len(row) != len(self.names):
                yield line, Unreadable(f"{len(row)} fields under a header of {len(self.names)}")
            else:
                yield line, row

    def records(self) -> Iterator[tuple[int, list[str] | Unreadable]]:
        """As `rows`, but rows that have too few or too many fields are given, too."""
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
                row = self._mended(start, self._cut or isinstance(error, csv.Error))
            if isinstance(row, Unreadable) or sum(map(len, self._taken)) > LARGE:
                self._restart()
            self._taken.clear()
            if row:
                yield start, row

    def _mended(self, start: int, broken: bool) -> list[str] | Unreadable:
        """In place of a suspect row that starts in line `start`, `broken` if csv says so: the row after all, or why not."""
        if not self._rows_inside(broken):
            # Perhaps the row is meant so, if not strictly right: quotes inside a quoted field that are not doubled.
            self._lines.back(self._taken)
            self._restart(strict=False)
            try:
                row = self._checked(next(self._reader))
            except (csv.Error, _Suspect):
                broken = self._cut
            else:
                taken = self._taken
                self._restart()
                self._taken = taken
                return row
        if isinstance(self._taken[0], _TooLong):
            return Unreadable(f"a line of more than {LONGEST:,} bytes")
        opens = self._opens()
        never = f"the quote that opens in line {start + opens} never closes"
        if self._rows_inside(broken):
            self._lines.back(self._taken[opens + 1 :])
            return Unreadable(f"{never}; the rows behind that line are read")
        behind = len(self._taken) - 1 - opens
        return Unreadable(f"{never}; what follows is lost with it: {plural(behind, 'line')}" if behind else never)

    def _restart(self, strict: bool = True) -> None:
        """Read the next line as the first of a row."""
        self._taken, self._cut = [], False
        self._reader = csv.reader(self._fed(), delimiter=self.delimiter, strict=strict)

    def _fed(self) -> Iterator[str]:
        """The lines that csv asks for. Raises _Suspect if they are too many or too long for one row."""
        csv.field_size_limit(LONGEST)  # one for the whole process, which others may have lowered
        size = 0
        for line in self._lines:
            size = len(line) if not self._taken else size + len(line)
            self._taken.append(line)
            several = len(self._taken) > 1
            if isinstance(line, _TooLong) or (several and (size > LONGEST_OF_SEVERAL or self._too_many())):
                raise _Suspect
            yield line
        if self._taken:
            self._cut = True
            raise _Suspect

    def _checked(self, row: list[str]) -> list[str]:
        """The row. Raises _Suspect if a field over several lines made it too short or too long, and there are rows inside."""
        if len(self._taken) > 1 and self.names and len(row) != len(self.names) and self._rows_inside():
            raise _Suspect
        return row

    def _too_many(self) -> bool:
        """Whether the lines taken, now and then looked at, are several rows. A header is never as long."""
        if len(self._taken) % SUSPECT != 1:
            return False
        return not self.names or (len(self.names) > 1 and self._share(self._taken[-SUSPECT:]) > 0.9)

    def _rows_inside(self, broken: bool = False) -> bool:
        """Whether there are rows in the lines behind the one that opens the quote."""
        inside = self._taken[self._opens() + 1 :]
        if len(self.names) < 2:
            # Any line is a row of one field, so that being broken is the only evidence. A header has no rows inside.
            return bool(inside and self.names) and broken
        return self._share(inside[-JUDGED:]) > 0.5

    def _share(self, lines: Sequence[str]) -> float:
        """Of the lines that are not blank, the share that are rows on their own, or begin one by opening a quote."""
        rows = found = 0
        for line in lines:
            asked = 0

            def one(line: str = line) -> Iterator[str]:
                nonlocal asked
                yield line
                asked = 1

            try:
                row = next(csv.reader(one(), delimiter=self.delimiter), [])
            except csv.Error:
                row = [""]
            found += bool(row)
            rows += 1 < len(row) <= len(self.names) if asked else len(row) == len(self.names)
        return rows / max(1, found)

    def _opens(self) -> int:
        """Which of the lines taken opens the quoted field that the last one is inside of, or ends."""
        lines = self._taken if self._cut else self._taken[:-1]
        field = next(csv.reader(lines, delimiter=self.delimiter), [""])[-1]
        spanned = len(_ENDS.findall(field)) + (not field.endswith(("\n", "\r")))
        return max(0, len(lines) - spanned)

    def _chosen(self, wanted: Sequence[str], delimiters: str) -> str:
        ahead = self._lines.ahead()
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
        # By the lines that are as long as the header. Of equals the last: a comma stands inside numbers, too.
        best = max(reversed(delimiters), key=lambda delimiter: shares[delimiter])
        return best if shares[best] else delimiters[0]


class _Suspect(Exception):
    """A row that spans too much."""


class _TooLong(str):
    """In place of a line that is too long to be read."""


class _Lines:
    """The lines of a stream of bytes, with their ends, each of which can be put back. They end at each break of the stream."""

    def __init__(self, stream: Any):
        self.stream = stream
        self.number = 0
        """Lines that were given."""
        self.waiting: list[str] = []
        """Lines that were read but not given, or put back; the next one last."""
        self.broken: Unreadable | None = None
        """The break that the lines ended at; they continue once it is None again."""
        self.ended = False
        """Whether there is nothing behind the break."""
        self.cut = False
        """Whether what comes next is the end of a line that was lost."""

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        if not self.waiting and not self._read():
            raise StopIteration
        self.number += 1
        return self.waiting.pop()

    def back(self, lines: Sequence[str]) -> None:
        """Give these again."""
        self.waiting += reversed(lines)
        self.number -= len(lines)

    def ahead(self) -> list[str]:
        """The first lines, which stay to be given. Raises Unreadable if they are not UTF-8 by their byte order mark."""
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
        """Read on to the next \\n: a line, or several that end in \\r. Whether there was anything."""
        while not self.ended and self.broken is None:
            try:
                line = self.stream.readline(LONGEST + 1)
                part = line  # of one that is too long, the start
                while (self.cut or len(line) > LONGEST) and part and not part.endswith(b"\n"):
                    part = self.stream.readline(LARGE)
            except Unreadable as error:  # the stream can be read on
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
                    else:  # a byte that is not UTF-8 costs its own row alone
                        text = line.decode("utf-8", "surrogateescape")
                        ends = 2 if text.endswith("\r\n") else 1
                        several = text.find("\r", 0, len(text) - ends) >= 0
                        self.waiting = _LINE.findall(text)[::-1] if several else [text]
                    return True
        return False


def raw(field: str) -> bytes | None:
    """A field's bytes if they are not UTF-8."""
    wrong = not field.isascii() and re.search("[\udc80-\udcff]", field)
    return field.encode("utf-8", "surrogateescape") if wrong else None
