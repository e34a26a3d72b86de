"""Files, wherever they are: one small face over pyarrow's filesystems, local or remote."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import posixpath
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pyarrow import fs

from foundray.errors import InputError


@dataclass(frozen=True)
class Store:
    """A folder: `Store.at("runs")`, `Store.at("s3://bucket/runs")`; `store / "name"` is a folder or file inside it."""

    filesystem: fs.FileSystem
    path: str
    url: str
    """How a person, or another process, names this place."""

    @staticmethod
    def at(location: str | os.PathLike[str]) -> Store:
        """Raises InputError where the URL's kind of filesystem is unknown, and for a secret in it."""
        url = os.fspath(location)
        if "://" not in url:
            path = Path(url).expanduser().absolute().as_posix()
            return Store(fs.LocalFileSystem(), path, path)
        check_no_secret(url)
        try:
            filesystem, path = fs.FileSystem.from_uri(url)
        except Exception as error:  # pyarrow raises many kinds here, by scheme
            raise InputError(f"{url} cannot be opened as storage: {_reason(error)}") from None
        return Store(filesystem, path, url)

    def __truediv__(self, name: str) -> Store:
        return Store(self.filesystem, posixpath.join(self.path, name), posixpath.join(self.url, name))

    def __str__(self) -> str:
        return self.url

    @property
    def name(self) -> str:
        return posixpath.basename(self.path.rstrip("/"))

    @property
    def parent(self) -> Store:
        return Store(self.filesystem, posixpath.dirname(self.path.rstrip("/")), posixpath.dirname(self.url.rstrip("/")))

    @property
    def is_local(self) -> bool:
        return isinstance(self.filesystem, fs.LocalFileSystem)

    def info(self) -> fs.FileInfo:
        with reading(self):
            return self.filesystem.get_file_info(self.path)

    def exists(self) -> bool:
        return self.info().type != fs.FileType.NotFound

    def children(self) -> list[Store]:
        """What lies directly in this folder, by name; nothing where there is no folder."""
        with reading(self):
            found = self.filesystem.get_file_info(fs.FileSelector(self.path, allow_not_found=True))
        return [self / name for name in sorted(info.base_name for info in found)]

    def read_bytes(self) -> bytes:
        """Raises InputError where the file cannot be read."""
        with reading(self), self.filesystem.open_input_stream(self.path) as stream:
            return stream.read()

    def read_text(self) -> str:
        return self.read_bytes().decode()

    def write_bytes(self, content: bytes) -> None:
        """Replace the whole file at once: a reader, or a crash, sees the old content or the new. Raises InputError."""
        with self.replacing() as stream:
            stream.write(content)

    def write_text(self, content: str) -> None:
        self.write_bytes(content.encode())

    @contextlib.contextmanager
    def replacing(self) -> Iterator[Any]:
        """A stream whose content becomes the file when the block ends well; otherwise nothing is left behind."""
        # Object stores show a file only when its stream is closed; a local file needs a name of its own until then.
        target = f"{self.path}.{os.getpid()}.tmp" if self.is_local else self.path
        with writing(self):
            self.filesystem.create_dir(posixpath.dirname(self.path), recursive=True)
            try:
                with self.filesystem.open_output_stream(target) as stream:
                    yield stream
                if self.is_local:
                    _sync(target)
                    Path(target).replace(self.path)
            except BaseException:
                with contextlib.suppress(OSError):
                    self.filesystem.delete_file(target)
                raise

    def delete_folder(self) -> None:
        with writing(self), contextlib.suppress(FileNotFoundError):
            self.filesystem.delete_dir(self.path)

    def check_writable(self) -> None:
        """Raises InputError where a file cannot be made in this folder."""
        probe = self / f".foundray-{os.getpid()}"
        probe.write_bytes(b"foundray")
        with writing(self):
            probe.filesystem.delete_file(probe.path)


@contextlib.contextmanager
def writing(place: object) -> Iterator[None]:
    """Turn what a filesystem raises while writing into one sentence."""
    try:
        yield
    except OSError as error:
        raise InputError(f"{place} cannot be written: {_reason(error)}") from error


@contextlib.contextmanager
def reading(place: object) -> Iterator[None]:
    """Turn what a filesystem raises while reading into one sentence."""
    try:
        yield
    except OSError as error:
        raise InputError(f"{place} cannot be read: {_reason(error)}") from error


_PASSWORD = re.compile(r"(?<=://)[^/\s@:]*:(?!\d+/)[^\s@]+@")
_KEY = re.compile(r"(?i)([?&][^=&\s]*(?:key|secret|token|password|sig|signature|sas)[^=&\s]*=)[^&\s\"'<>]+")


def check_no_secret(url: str) -> None:
    """Raises InputError where the URL holds one."""
    if _PASSWORD.search(url) or _KEY.search(url):
        raise InputError(
            f"{redacted(url)} holds a secret, which would be stored and shown: give it to every node by its role or "
            "environment, such as AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, and leave it out of the URL"
        )


def redacted(text: str) -> str:
    """Without the secrets of URLs: what stands before `@`, and keys in queries."""
    return _KEY.sub(r"\1…", re.sub(r"(?<=://)[^/\s@]*@", "", _PASSWORD.sub("", text)))


def sha256(content: bytes | memoryview) -> str:
    return hashlib.sha256(content).hexdigest()


def _sync(path: str) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _reason(error: Exception) -> str:
    if isinstance(error, OSError) and error.errno == errno.ENOSPC:
        return "the disk is full"
    if isinstance(error, OSError) and error.errno:
        return os.strerror(error.errno)
    text = re.sub(r"\s+", " ", str(error))
    return "the disk is full" if "No space left" in text else text[:200]
