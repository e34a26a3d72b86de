"""Files, wherever they are: one small face over pyarrow's filesystems, local or remote."""

from __future__ import annotations

import contextlib
import ctypes
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

from foundray.errors import InputError, StorageAway
from foundray.urls import WILD, encoded, inside, is_url, local_path, outside


@dataclass(frozen=True)
class Store:
    """A folder: `Store.at("runs")`, `Store.at("s3://bucket/runs")`; `store / "name"` is a folder or file inside it."""

    filesystem: fs.FileSystem
    path: str
    url: str
    """How a person, or another process, names this place: `Store.at` of it is the same. A local path is itself."""

    @staticmethod
    def at(location: str | os.PathLike[str]) -> Store:
        """Raises InputError for a URL whose filesystem is unknown or that holds a secret, and for a name that is not UTF-8."""
        url = os.fspath(location)
        _check_name(url)
        if not is_url(url):
            path = local_path(url)
            _check_name(path)
            return Store(fs.LocalFileSystem(), path, path)
        check_no_secret(url)
        try:
            filesystem, path = fs.FileSystem.from_uri(encoded(url))
        except Exception as error:  # pyarrow raises many kinds here, by scheme
            raise InputError(f"{url} cannot be opened as storage: {_reason(error)}") from None
        return Store(filesystem, path, encoded(url, keep=WILD))

    def __truediv__(self, name: str) -> Store:
        return Store(self.filesystem, posixpath.join(self.path, name), inside(self.url, name))

    def __str__(self) -> str:
        return self.url

    @property
    def name(self) -> str:
        return posixpath.basename(self.path.rstrip("/"))

    @property
    def parent(self) -> Store:
        return Store(self.filesystem, posixpath.dirname(self.path.rstrip("/")), outside(self.url))

    @property
    def is_local(self) -> bool:
        return isinstance(self.filesystem, fs.LocalFileSystem)

    def info(self) -> fs.FileInfo:
        with reading(self):
            return self.filesystem.get_file_info(self.path)

    def exists(self) -> bool:
        return self.info().type != fs.FileType.NotFound

    def children(self) -> list[Store]:
        """What lies directly in this folder, by name; nothing if there is no folder. Names that are not UTF-8 are not ours."""
        with reading(self):
            if self.is_local:
                folder = Path(self.path)
                names = [child.name for child in folder.iterdir() if _is_utf8(child.name)] if folder.exists() else []
            else:
                names = [info.base_name for info in self._listing()]
        return [self / name for name in sorted(names)]

    def files(self) -> dict[str, int]:
        """Size in bytes of each file that lies directly in this folder, by name; nothing if there is no folder."""
        with reading(self):
            found = self._listing()
        return {info.base_name: info.size for info in found if info.type == fs.FileType.File}

    def _listing(self) -> list[fs.FileInfo]:
        """What lies directly in this folder; nothing if there is no folder.

        pyarrow looks twice if a folder is missing, and fails if another process makes it between the two looks.
        """
        folder = fs.FileSelector(self.path, allow_not_found=True)
        for _ in range(8):
            with contextlib.suppress(FileNotFoundError):
                return self.filesystem.get_file_info(folder)
        return self.filesystem.get_file_info(folder)

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
        """A stream whose content becomes the file when the block ends well; otherwise the old file stays as it was."""
        with writing(self):
            self.filesystem.create_dir(posixpath.dirname(self.path), recursive=True)
            with self._replacing_locally() if self.is_local else self._uploading() as stream:
                yield stream

    @contextlib.contextmanager
    def _replacing_locally(self) -> Iterator[Any]:
        target = f"{self.path}.{os.getpid()}.tmp"
        try:
            with self.filesystem.open_output_stream(target) as stream:
                yield stream
            _sync(target)
            Path(target).replace(self.path)
        except BaseException:
            with contextlib.suppress(OSError):
                self.filesystem.delete_file(target)
            raise

    @contextlib.contextmanager
    def _uploading(self) -> Iterator[Any]:
        """Object stores show an object only when its upload is completed, which closing the stream does."""
        stream = self.filesystem.open_output_stream(self.path)
        try:
            yield stream
            stream.close()
        except BaseException:
            _abandon(stream)
            raise

    def delete_file(self) -> None:
        """One that is gone already is no error. Raises InputError."""
        with writing(self), contextlib.suppress(FileNotFoundError):
            self.filesystem.delete_file(self.path)

    def delete_folder(self) -> None:
        with writing(self), contextlib.suppress(FileNotFoundError):
            self.filesystem.delete_dir(self.path)

    def check_writable(self) -> None:
        """Raises InputError where a file cannot be made in this folder."""
        probe = self / f".foundray-{os.getpid()}"
        probe.write_bytes(b"foundray")
        probe.delete_file()


@contextlib.contextmanager
def writing(place: object) -> Iterator[None]:
    """Turn what a filesystem raises while writing into one sentence."""
    try:
        yield
    except OSError as error:
        raise StorageAway(f"{place} cannot be written: {_reason(error)}") from error


@contextlib.contextmanager
def reading(place: object) -> Iterator[None]:
    """Turn what a filesystem raises while reading into one sentence."""
    try:
        yield
    except FileNotFoundError as error:
        raise InputError(f"{place} cannot be read: {_reason(error)}") from error
    except OSError as error:
        raise StorageAway(f"{place} cannot be read: {_reason(error)}") from error


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


def _check_name(location: str) -> None:
    """Raises InputError for a name that no filesystem of pyarrow's takes."""
    if "\0" in location:
        raise InputError(f"{location!a} is no path: it holds a zero byte")
    if not _is_utf8(location):
        raise InputError(f"{location!a} is not UTF-8, as the names of files must be here: give it another name")


def _is_utf8(name: str) -> bool:
    """Whether the system's own bytes of the name are."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def _abandon(stream: Any) -> None:
    """Leave an upload incomplete for good: the store drops its parts by its own rule for such uploads.

    pyarrow has no call for that. Closing a stream, which its destructor does as well, would complete the upload and replace
    the object by half of it, or later by an older content; so the stream lives for ever.
    """
    ctypes.pythonapi.Py_IncRef(ctypes.py_object(stream))


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
