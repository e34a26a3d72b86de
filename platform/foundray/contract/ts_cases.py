"""Reader of .ts files (UEA and UCR archives, sktime): one case per line, dimensions separated by colons, label last."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from foundray.contract import Unreadable
from foundray.wording.words import plural

_BETWEEN_DIMENSIONS = re.compile(r":(?![^()]*\))")
"""A colon outside brackets: a time stamp stands in brackets with its value."""
_STAMPED = re.compile(r"\(([^()]*)\)")


@dataclass(frozen=True)
class Case:
    dimensions: list[list[str]]
    """Values of each dimension, as written; all dimensions have the same length."""
    label: str | None
    """The class or the target, if cases have one."""
    stamped: bool
    """Whether the values had time stamps, which are dropped."""


@dataclass
class Header:
    """Settings in the lines that begin with @."""

    label: Literal["class", "target", None] = None
    """Meaning of a case's last field."""
    dimensions: int | None = None
    """Dimensions per case, if given."""
    begun: bool = False
    """Whether @data has been read."""

    def read(self, line: str) -> None:
        """Take in one header line. White space separates words, and case does not matter."""
        tag, *words = line.lower().split()
        match tag, words:
            case "@data", _:
                self.begun = True
            case "@classlabel", [flag, *_]:
                self.label = "class" if flag == "true" else self.label if flag != "false" else None
            case "@targetlabel", [flag, *_]:
                self.label = "target" if flag == "true" else self.label
            case "@univariate", ["true", *_]:
                self.dimensions = 1
            case (("@dimensions" | "@dimension"), [number, *_]) if number.isdecimal():
                self.dimensions = int(number)


def cases(content: bytes) -> Iterator[tuple[int, Header, Case | Unreadable]]:
    """Yield (line, header, case or why it cannot be used). Raises Unreadable for content that is not a .ts file."""
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
        reason = f"it has {plural(len(fields), 'dimension')}, and the header says {header.dimensions}"
        return Unreadable(reason, unit="case")
    dimensions = [_values(field) for field in fields]
    if len(lengths := sorted({len(values) for values in dimensions})) > 1:
        return Unreadable(f"its dimensions have different lengths, from {lengths[0]} to {lengths[-1]}", unit="case")
    return Case(dimensions, parts[-1].strip() if labelled else None, "(" in fields[0])


def _values(field: str) -> list[str]:
    if stamped := _STAMPED.findall(field):
        return [pair.rpartition(",")[2].strip() for pair in stamped]
    return [value.strip() for value in field.split(",")]
