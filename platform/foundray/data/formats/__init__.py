"""One module per format. An open file becomes documents, with a BadRow in place of each part that cannot be used.

`foundray.spec.formats` lists the formats. Each row names the module here that reads it, and which is imported at the first use.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING, TypeAlias, cast

from foundray.spec.formats import FORMATS

Rewrites: TypeAlias = tuple[tuple[str, str], ...]
"""Regular expressions and what replaces their matches, one after the other."""

if TYPE_CHECKING:
    import pyarrow as pa

    from foundray.data.formats.row import BadRow, Document
    from foundray.spec import SourceConfig

    Reader: TypeAlias = Callable[[pa.NativeFile, str, SourceConfig], Iterator[Document | BadRow]]


def module(name: str) -> ModuleType:
    """The module that reads a format."""
    return import_module(f"{__name__}.{FORMATS[name].module}")


def rewrites(name: str) -> Rewrites:
    """What a format's reader does to the letters of a text; empty for most formats, which leave it as it is."""
    return cast("Rewrites", module(name).REWRITES) if name in FORMATS and FORMATS[name].rewrites else ()


def rewritten(text: str, rewrites: Rewrites) -> str:
    """The text as a reader of that format would have given it."""
    for pattern, replacement in rewrites:
        text = re.sub(pattern, replacement, text)
    return text


def reader(name: str) -> Reader:
    """The function that reads an open file of a format: it takes the handle, the path and the source."""
    return cast("Reader", module(name).read)
