"""One module per format. An open file becomes documents, with a BadRow in place of each part that cannot be used.

`foundray.spec.formats` lists the formats. Each row names the module here that reads it, and which is imported at the first use.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING, TypeAlias, cast

from foundray.spec.formats import FORMATS

if TYPE_CHECKING:
    import pyarrow as pa

    from foundray.data.formats.row import BadRow, Document
    from foundray.spec import SourceConfig

    Reader: TypeAlias = Callable[[pa.NativeFile, str, SourceConfig], Iterator[Document | BadRow]]


def module(name: str) -> ModuleType:
    """The module that reads a format."""
    return import_module(f"{__name__}.{FORMATS[name].module}")


def reader(name: str) -> Reader:
    """The function that reads an open file of a format: it takes the handle, the path and the source."""
    return cast("Reader", module(name).read)
