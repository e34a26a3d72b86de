"""Where an export goes: a folder that is there whole, or not at all."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path, PurePath
from uuid import uuid4

from pyarrow import fs

from foundray.errors import InputError
from foundray.storage import Store, writing

LAST = "config.json"
"""Without it nobody takes the folder for a model."""


def check_free(out: Store) -> None:
    """Raises InputError where something is there already."""
    if out.info().type == fs.FileType.File:
        raise InputError(f"{out} is a file: name a folder that is not there yet")
    if out.children():
        raise InputError(f"{out} holds something already: name a folder that is not there yet, or is empty")


@contextmanager
def whole(out: Store) -> Iterator[Path]:
    """A local folder, whose files are in `out` when the block ends well. Otherwise nothing is left there, or nothing whole.

    A local `out` gets its name when all is written; elsewhere, files are copied one by one. Raises InputError.
    """
    check_free(out)
    with writing(out):
        parent = Path(out.path).parent if out.is_local else Path(tempfile.gettempdir())
        parent.mkdir(parents=True, exist_ok=True)
        folder = parent / f".{out.name}.{uuid4().hex[:8]}.tmp"
        folder.mkdir()
        try:
            yield folder
            if out.is_local:
                folder.replace(out.path)
            else:
                for file in sorted(folder.iterdir(), key=lambda file: file.name == LAST):
                    with (out / file.name).replacing() as stream, file.open("rb") as content:
                        shutil.copyfileobj(content, stream)
        finally:
            with suppress(OSError):
                shutil.rmtree(folder)


def in_public(place: str) -> str:
    """A URL, or of a local path the last two parts: an export is made to be given away, and where things lay here is not."""
    return place if "://" in place else "/".join(PurePath(place).parts[-2:])
