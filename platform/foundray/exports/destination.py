"""The destination of an export: a folder that is written completely or not at all."""

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
"""The file that is written last: without it, no library takes the folder for a model."""


def check_free(out: Store) -> None:
    """Raises InputError if `out` is a file, or a folder with contents."""
    if out.info().type == fs.FileType.File:
        raise InputError(f"{out} is a file: name a folder that does not exist yet")
    if out.children():
        raise InputError(f"{out} holds something already: name a folder that does not exist yet or is empty")


@contextmanager
def all_or_nothing(out: Store) -> Iterator[Path]:
    """Yield a local folder whose files move to `out` if the block succeeds; otherwise no complete export is left there.

    A local `out` is renamed into place when all is written; elsewhere, files are copied one by one. Raises InputError.
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


def public_path(path: str) -> str:
    """A URL as it is, or the last two parts of a local path: an export is published, and local folders are private."""
    return path if "://" in path else "/".join(PurePath(path).parts[-2:])
