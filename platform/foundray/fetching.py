"""Download an example's data, or copy it from a folder; check it by size and SHA-256."""

from __future__ import annotations

import contextlib
import hashlib
import os
import posixpath
import re
import shutil
import urllib.request
import zlib
from collections.abc import Callable, Iterator
from fnmatch import fnmatch
from http.client import HTTPException
from pathlib import Path
from typing import IO, Literal

from pydantic import Field, PositiveInt, field_validator, model_validator

from foundray.data.formats.tar import members
from foundray.errors import InputError
from foundray.spec.loading import checked, parse_fields, read_yaml
from foundray.spec.section import Section

TIMEOUT_S = 60
CHUNK = 2**20
NAME = r"[A-Za-z0-9_][A-Za-z0-9._-]*"
"""Names of files and folders: without a path, so they cannot lead elsewhere."""


class File(Section):
    url: str = Field(pattern=r"^https?://")
    """Where it was published."""
    bytes: PositiveInt
    """Size, in bytes."""
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    """Checksum, in hexadecimal digits."""
    of: Literal["file", "unzipped", "members"] = "file"
    """What size and SHA-256 are of, because repacked data has other bytes: the file; what it unzips to; or the files in an
    archive, as lines `SHA-256, two spaces, name without folders`, sorted by name."""
    members: str = "*"
    """For `members`: a pattern for their names."""


class DataSet(Section):
    set: str = Field(pattern=f"^{NAME}$")
    """Name of its folder in a mirror."""
    origin: str
    """Who published it, and how the files derive from that."""
    licence: str
    """Its licence."""
    files: dict[str, File] = Field(default={})
    """Files by name."""
    how: str | None = None
    """How to make or choose the data, if no files are fetched."""
    uses: list[str] = Field(default=[])
    """Other examples whose data this one reads; they are fetched in its place."""

    @field_validator("files")
    @classmethod
    def _names_stay(cls, files: dict[str, File]) -> dict[str, File]:
        if wrong := next((name for name in files if not re.fullmatch(NAME, name)), None):
            raise ValueError(f"{wrong!r} is not a plain file name")
        return files

    @model_validator(mode="after")
    def _comes_from_somewhere(self) -> DataSet:
        if not (self.files or self.how or self.uses):
            raise ValueError("it has no files, no `how` and no `uses`, so nobody knows where its data comes from")
        return self


def fetch(folder: Path, to: Path, mirror: Path | None = None, report: Callable[[str], None] = lambda line: None) -> Path:
    """Get the data of the example in `folder` into its folder in `to`; correct files stay. Return that folder.

    `mirror` holds a folder per data set and replaces the network. The example's data.yaml, with the licence, is copied next
    to the folder as a hidden file, so that it is not read as data. Raises InputError.
    """
    described = folder / "data.yaml"
    data, target = load_data_set(described), to / folder.name
    for file_name, file in data.files.items():
        place = target / file_name
        if place.exists() and _difference(place, file) is None:
            report(f"{place}: there")
            continue
        origin = _mirrored(mirror / data.set, file_name, file) if mirror else file.url
        _get(origin, place, file)
        report(f"{place}: {place.stat().st_size:,} bytes from {origin}")
    if data.files:
        _note(described, target)
    report(f"licence: {data.licence}")
    return target


def _note(described: Path, target: Path) -> None:
    place = target.with_name(f".{target.name}.yaml")
    try:
        shutil.copyfile(described, place)
    except OSError as error:
        raise InputError(f"{place} cannot be written: {error.strerror or error}") from None


def load_data_set(file: Path) -> DataSet:
    """Read an example's data.yaml. Raises InputError."""
    return checked(DataSet, parse_fields(read_yaml(file, "the data file"), str(file), "it starts with `set: ...`"), str(file))


def _mirrored(folder: Path, name: str, file: File) -> str:
    """URL of the file in the mirror, under its name here or its name in the URL. Raises InputError."""
    for known_as in (name, file.url.rpartition("/")[2]):
        if (place := folder / known_as).is_file():
            return place.absolute().as_uri()
    raise InputError(f"the mirror has no {folder / name}")


def _get(origin: str, place: Path, file: File) -> None:
    """Download to a temporary name, check, and rename. Raises InputError."""
    part = place.with_name(f".{place.name}.{os.getpid()}.part")
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        with urllib.request.urlopen(origin, timeout=TIMEOUT_S) as stream, part.open("wb") as target:
            shutil.copyfileobj(stream, target, CHUNK)
        if difference := _difference(part, file):
            raise InputError(f"{origin} is not what was expected: {difference}; nothing was kept")
        part.replace(place)
    except (OSError, HTTPException, ValueError) as error:
        why = getattr(error, "reason", None) or error
        raise InputError(f"{origin} could not be fetched to {place}: {why}; --mirror FOLDER takes a copy from there") from None
    finally:
        with contextlib.suppress(OSError):
            part.unlink(missing_ok=True)
            place.parent.rmdir()  # if nothing came into it


def _difference(place: Path, file: File) -> str | None:
    """How a file differs from what is expected; None if it does not."""
    sha, size, lines = hashlib.sha256(), 0, []
    try:
        with place.open("rb") as stream:
            if file.of == "members":
                for name, content in members(stream):
                    if not (name or isinstance(content, bytes)):
                        return f"it is damaged at {content.position}: {content}"
                    if isinstance(content, bytes) and fnmatch(name, file.members):
                        size += len(content)
                        lines.append((posixpath.basename(name), hashlib.sha256(content).hexdigest()))
                sha.update("".join(f"{one}  {name}\n" for name, one in sorted(lines)).encode())
            else:
                for chunk in _unzipped(stream) if file.of == "unzipped" else iter(lambda: stream.read(CHUNK), b""):
                    sha.update(chunk)
                    size += len(chunk)
                    if size > file.bytes:
                        return f"{_OF[file.of]} more than {file.bytes:,} bytes"
    except zlib.error as error:
        return f"it cannot be unzipped ({error})"
    if size != file.bytes:
        return f"{_OF[file.of]} {size:,} bytes instead of {file.bytes:,}"
    if sha.hexdigest() != file.sha256:
        return f"{_OF[file.of]} the SHA-256 {sha.hexdigest()} instead of {file.sha256}"
    return None


_OF = {"file": "it has", "unzipped": "it, unzipped, has", "members": "the files in it have"}


def _unzipped(stream: IO[bytes]) -> Iterator[bytes]:
    """Decompress a gzip stream in chunks, so that a small file cannot fill the memory."""
    unzip, rest = zlib.decompressobj(wbits=31), b""
    while not unzip.eof and (rest := unzip.unconsumed_tail or stream.read(CHUNK)):
        yield unzip.decompress(rest, CHUNK)
