"""Rows of delimited text, with the lines that they begin in. What is damaged costs the rows that it damages.

A quote that never closes would make one field of all that follows. A field over several lines is suspect if the file ends
inside it, if a quote inside it is followed by text (strictly, the field ends there), if it makes its row too short or too
long, or if it has more than `SUSPECT` lines. If the lines inside a suspect field are rows, each read on its own, its quote
never closes: the row up to the line that opens it is lost, and reading continues with the next line.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterator, Sequence
from typing import Any

from foundray.contract import Unreadable
from foundray.contract.columns import check
from foundray.words import plural

DELIMITERS = ",;\t|"
"""What may stand between fields, the usual one first."""
LONGEST = 2**28
"""Characters of a row, at most; csv's own limit for a field is 131,072. A row takes up to 6 bytes of memory per character."""
SUSPECT = 100
"""Lines of a quoted field that all look like rows before its quote is taken for one that never closes (judgement: a table
inside a field is shorter)."""
JUDGED = 20
"""Lines that tell whether the lines inside a field are rows: the last ones, since the field's own text comes first."""
_ENDS = re.compile(r"\r\n|\r|\n")
LARGE = 2**20
"""Characters of a row after which csv's reader, which keeps 4 bytes of memory for each, is replaced."""
SNIFFED = 50
"""Lines by which a delimiter is chosen, at most, and their characters, about."""
SNIFFED_CHARACTERS = 2**16


class CsvRows:
    """The rows of one file, under its header."""

    def __init__(self, stream: Any, wanted: Sequence[str] = (), delimiters: str = DELIMITERS):
        """Reads the header. `stream` gives bytes; the delimiter is the one by which the header holds all that is `wanted`.

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
        for _, header in self._records():
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
        for line, row in self._records():
            if isinstance(row, list) and len(row) != len(self.names):
                yield line, Unreadable(f"{len(row)} fields under a header of {len(self.names)}")
            else:
                yield line, row

    def _records(self) -> Iterator[tuple[int, list[str] | Unreadable]]:
        while True:
            start = self._lines.number + 1
            try:
                row: list[str] | Unreadable = self._checked(next(self._reader))
            except StopIteration:
                break
            except (csv.Error, _Suspect) as error:
                row = self._mended(start, self._cut or isinstance(error, csv.Error))
            if isinstance(row, Unreadable) or sum(map(len, self._taken)) > LARGE:
                self._restart()
            self._taken.clear()
            if row:
                yield start, row
        if self._lines.broken:
            yield self._lines.number + 1, Unreadable(f"the compressed stream is broken: {self._lines.broken}", unit="file")

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
        if len(self._taken[0]) > LONGEST:
            return Unreadable(f"a line of more than {LONGEST:,} characters")
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
            if size > LONGEST or (len(self._taken) % SUSPECT == 1 and len(self._taken) > 1 and self._too_many()):
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
        """Whether a row of so many lines is several: a header is never as long."""
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
            rows = [row for row in csv.reader((line[:LONGEST] for line in ahead), delimiter=delimiter) if row] or [[]]
            if wanted and set(wanted) <= set(rows[0]):
                return delimiter
            shares[delimiter] = sum(len(row) == len(rows[0]) for row in rows) / len(rows) if len(rows[0]) > 1 else 0.0
        # By the lines that are as long as the header. Of equals the last: a comma stands inside numbers, too.
        best = max(reversed(delimiters), key=lambda delimiter: shares[delimiter])
        return best if shares[best] else delimiters[0]


class _Suspect(Exception):
    """A row that spans too much."""


class _Lines:
    """The lines of a stream of bytes, with their ends, each of which can be put back."""

    def __init__(self, stream: Any):
        # Bytes that are not UTF-8 cost their own rows alone.
        self.text = io.TextIOWrapper(stream, encoding="utf-8-sig", errors="surrogateescape", newline="")
        self.number = 0
        """Lines that were given."""
        self.broken: OSError | None = None
        """What ended a compressed stream."""
        self.waiting: list[str] = []
        """Lines that were put back, the next one last."""

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        line = self.waiting.pop() if self.waiting else self._read()
        if not line:
            raise StopIteration
        self.number += 1
        return line

    def back(self, lines: Sequence[str]) -> None:
        """Give these again."""
        self.waiting += reversed(lines)
        self.number -= len(lines)

    def ahead(self) -> list[str]:
        """The first lines. Raises Unreadable if they are not UTF-8 by their byte order mark."""
        lines: list[str] = []
        while len(lines) < SNIFFED and sum(map(len, lines)) < SNIFFED_CHARACTERS and (line := self._read()):
            lines.append(line)
        if lines and lines[0].startswith(("\udcff\udcfe", "\udcfe\udcff", "\0\0\udcfe\udcff")):
            raise Unreadable("it is UTF-16 or UTF-32, by its byte order mark; CSV is read as UTF-8", unit="file")
        self.waiting = lines[::-1]
        return lines

    def _read(self) -> str:
        """Of a line that is too long, the start; "" at the end."""
        if self.broken:
            return ""
        try:
            line = self.text.readline(LONGEST + 1)
            part = line
            while len(line) > LONGEST and part and not part.endswith(("\n", "\r")):
                part = self.text.readline(LARGE)
        except OSError as error:
            self.broken, line = error, ""
        return line


def raw(field: str) -> bytes | None:
    """A field's bytes if they are not UTF-8."""
    wrong = not field.isascii() and re.search("[\udc80-\udcff]", field)
    return field.encode("utf-8", "surrogateescape") if wrong else None
