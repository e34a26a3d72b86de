"""The .ts files of the UEA and UCR archives, and of sktime: a case per line, dimensions between colons, a label last."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from foundray.contract import Unreadable
from foundray.wording.words import plural

_BETWEEN_DIMENSIONS = re.compile(r":(?![^()]*\))")
"""A colon, but not one of a time stamp: those stand in brackets, each before its value."""
_STAMPED = re.compile(r"\(([^()]*)\)")


@dataclass(frozen=True)
class Case:
    dimensions: list[list[str]]
    """Of each dimension, the values as they are written, as many in each."""
    label: str | None
    """The class or the target, if cases bear one."""
    stamped: bool
    """Whether the values had time stamps, which are left out."""


@dataclass
class Header:
    """What the lines that begin with @ say."""

    label: Literal["class", "target", None] = None
    """What the last field of a case is."""
    dimensions: int | None = None
    """Of a case, if that is said."""
    begun: bool = False
    """Whether the data has begun."""

    def read(self, line: str) -> None:
        """One of its lines; words are parted by white space, and case does not matter."""
        tag, *words = line.lower().split()
        match tag, words:
            case "@data", _:
                self.begun = True
            case "@classlabel", [says, *_]:
                self.label = "class" if says == "true" else self.label if says != "false" else None
            case "@targetlabel", [says, *_]:
                self.label = "target" if says == "true" else self.label
            case "@univariate", ["true", *_]:
                self.dimensions = 1
            case (("@dimensions" | "@dimension"), [number, *_]) if number.isdecimal():
                self.dimensions = int(number)


def cases(content: bytes) -> Iterator[tuple[int, Header, Case | Unreadable]]:
    """(line, header, case) of each, or why it cannot be used. Raises Unreadable for what is no .ts file."""
    if content.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise Unreadable("it is UTF-16, by its byte order mark; .ts files are read as UTF-8", unit="file")
    header = Header()
    for number, line in enumerate(re.split(r"\r\n|\r|\n", content.decode("utf-8-sig", errors="replace")), 1):
        line = line.strip()
        if line.startswith("@"):
            header.read(line)
        elif header.begun and line and not line.startswith(("#", "%")):
            yield number, header, _case(line, header)
    if not header.begun:
        raise Unreadable("not a .ts file: it has no @data", unit="file")


def _case(line: str, header: Header) -> Case | Unreadable:
    parts = _BETWEEN_DIMENSIONS.split(line)
    labelled = header.label is not None or len(parts) - 1 == header.dimensions
    fields = parts[:-1] if labelled else parts
    if not fields:
        return Unreadable(f"it has no {header.label}, or no values before it", unit="case")
    if header.dimensions is not None and len(fields) != header.dimensions:
        said = f"it has {plural(len(fields), 'dimension')}, and the header says {header.dimensions}"
        return Unreadable(said, unit="case")
    dimensions = [_values(field) for field in fields]
    if len(lengths := sorted({len(values) for values in dimensions})) > 1:
        return Unreadable(f"its dimensions have different lengths, from {lengths[0]} to {lengths[-1]}", unit="case")
    return Case(dimensions, parts[-1].strip() if labelled else None, "(" in fields[0])


def _values(field: str) -> list[str]:
    if stamped := _STAMPED.findall(field):
        return [pair.rpartition(",")[2].strip() for pair in stamped]
    return [value.strip() for value in field.split(",")]
