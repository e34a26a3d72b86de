"""Arguments that several functions take."""

from __future__ import annotations

from collections.abc import Callable
from os import PathLike, fspath
from typing import Any

SpecPath = str | PathLike[str]
Report = Callable[[str], None]
OnEvent = Callable[[dict[str, Any]], None]


def silent(line: str) -> None:
    """Report nothing."""


def text_of(path: SpecPath) -> str:
    """The path as text."""
    return fspath(path)
