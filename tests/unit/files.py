"""Small files of samples, and what a modality reads from them."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from PIL import Image

from foundray.contract import Values
from foundray.data.files.files import find_files
from foundray.data.prepare.sources import read_rows
from foundray.spec import SourceConfig


def task_file(folder: Path, **fields: Any) -> Path:
    """The file of a task that `foundray probe` takes."""
    (path := folder / "task.yaml").write_text(yaml.safe_dump(fields))
    return path


def picture(value: int, left: bool) -> bytes:
    """A PNG of 8 by 8 pixels, dark but for one half."""
    pixels = np.full((8, 8), 20, np.uint8)
    pixels[:, :4] = value if left else 20
    pixels[:, 4:] = 20 if left else value
    Image.fromarray(pixels).save(file := io.BytesIO(), "png")
    return file.getvalue()


def rows(modality: Values, path: Path, length: int = 4, form: str = "files") -> list[Any]:
    """Rows of a source, or a `BadRow` in place of each that cannot be read."""
    source = SourceConfig(path=str(path), format=form)  # type: ignore[arg-type]
    return [row for file in find_files(source, modality.endings) for row in read_rows(file, source, modality, length)]


def archive(path: Path, members: dict[str, bytes]) -> Path:
    """A tar file of these members, and a link that leads out of it."""
    with tarfile.open(path, "w") as file:
        for name, content in members.items():
            information = tarfile.TarInfo(name)
            information.size = len(content)
            file.addfile(information, io.BytesIO(content))
        link = tarfile.TarInfo("link.txt")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        file.addfile(link)
    return path
