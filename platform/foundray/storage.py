"""Local and remote files: a small interface to pyarrow's filesystems."""

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
    """The location for people and other processes: `Store.at(url)` equals this. For local files, the path."""

    @staticmethod
    def at(location: str | os.PathLike[str]) -> Store:
        """Open a location. Raises InputError for an unknown filesystem, a secret in the URL, or a name that is not UTF-8."""
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
        """Direct children of this folder, by name; none if the folder is missing. Skips names that are not UTF-8."""
        with reading(self):
            found = self._entries() if self.is_local else self._listing()
        return [self / name for name in sorted(found)]

    def files(self) -> dict[str, int]:
        """Sizes in bytes of the files directly in this folder, by name; empty if the folder is missing."""
        with reading(self):
            if self.is_local:
                return dict(_sizes(self._entries()))
            return {name: info.size for name, info in self._listing().items() if info.type == fs.FileType.File}

    def _entries(self) -> dict[str, os.DirEntry[str]]:
        """Direct children of this local folder, by name; none if the folder is missing. Skips names that are not UTF-8."""
        if Path(self.path).exists():
            with contextlib.suppress(FileNotFoundError), os.scandir(self.path) as entries:
                return {entry.name: entry for entry in entries if _is_utf8(entry.name)}
        return {}

    def _listing(self) -> dict[str, fs.FileInfo]:
        """The same on another filesystem.

        pyarrow checks twice whether a folder is missing, and fails if another process creates it in between.
        """
        folder = fs.FileSelector(self.path, allow_not_found=True)
        found: list[fs.FileInfo] | None = None
        for _ in range(8):
            with contextlib.suppress(FileNotFoundError):
                found = self.filesystem.get_file_info(folder)
                break
        return {info.base_name: info for info in (self.filesystem.get_file_info(folder) if found is None else found)}

    def read_bytes(self) -> bytes:
        """Read the whole file. Raises InputError if it cannot be read."""
        with reading(self), self.filesystem.open_input_stream(self.path) as stream:
            return stream.read()

    def copy_to(self, file: Path) -> None:
        """Copy the file into a local one, a piece at a time. Raises InputError if it cannot be read, OSError if not written."""
        with reading(self):
            stream = self.filesystem.open_input_stream(self.path)
        with stream, file.open("wb") as copy:
            while piece := self._piece(stream):
                copy.write(piece)

    def _piece(self, stream: Any) -> bytes:
        with reading(self):
            content: bytes = stream.read(2**24)
            return content

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
        """Yield a stream that replaces the file if the block succeeds; otherwise the old file stays."""
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
        """Yield an upload. An object store shows the object only once closing the stream completes the upload."""
        stream = self.filesystem.open_output_stream(self.path)
        try:
            yield stream
            stream.close()
        except BaseException:
            _abandon(stream)
            raise

    def delete_file(self) -> None:
        """Delete the file, if it exists. Raises InputError."""
        with writing(self), contextlib.suppress(FileNotFoundError):
            self.filesystem.delete_file(self.path)

    def delete_folder(self) -> None:
        with writing(self), contextlib.suppress(FileNotFoundError):
            self.filesystem.delete_dir(self.path)

    def check_writable(self) -> None:
        """Raise InputError if no file can be created in this folder."""
        probe = self / f".foundray-{os.getpid()}"
        probe.write_bytes(b"foundray")
        probe.delete_file()


def _sizes(entries: dict[str, os.DirEntry[str]]) -> Iterator[tuple[str, int]]:
    """(name, size) of those that are files, and still there."""
    for name, entry in entries.items():
        with contextlib.suppress(FileNotFoundError):
            if entry.is_file():
                yield name, entry.stat().st_size


@contextlib.contextmanager
def writing(location: object) -> Iterator[None]:
    """Turn OSErrors of writing into one sentence, as StorageAway."""
    try:
        yield
    except OSError as error:
        raise StorageAway(f"{location} cannot be written: {_reason(error)}") from error


@contextlib.contextmanager
def reading(location: object) -> Iterator[None]:
    """Turn OSErrors of reading into one sentence, as InputError or StorageAway."""
    try:
        yield
    except FileNotFoundError as error:
        raise InputError(f"{location} cannot be read: {_reason(error)}") from error
    except OSError as error:
        raise StorageAway(f"{location} cannot be read: {_reason(error)}") from error


_PASSWORD = re.compile(r"(?<=://)[^/\s@:]*:(?!\d+/)[^\s@]+@")
_KEY = re.compile(r"(?i)([?&][^=&\s]*(?:key|secret|token|password|sig|signature|sas)[^=&\s]*=)[^&\s\"'<>]+")


def check_no_secret(url: str) -> None:
    """Raise InputError if the URL holds a secret."""
    if _PASSWORD.search(url) or _KEY.search(url):
        raise InputError(
            f"{redacted(url)} holds a secret, which would be stored and shown: give it to every node by its role or "
            "environment, such as AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, and leave it out of the URL"
        )


def redacted(text: str) -> str:
    """Remove the secrets of URLs: the part before `@`, and keys in queries."""
    return _KEY.sub(r"\1…", re.sub(r"(?<=://)[^/\s@]*@", "", _PASSWORD.sub("", text)))


def sha256(content: bytes | memoryview) -> str:
    return hashlib.sha256(content).hexdigest()


def _check_name(location: str) -> None:
    """Raise InputError for a name that pyarrow's filesystems do not accept."""
    if "\0" in location:
        raise InputError(f"{location!a} is no path: it holds a zero byte")
    if not _is_utf8(location):
        raise InputError(f"{location!a} is not UTF-8, as the names of files must be here: give it another name")


def _is_utf8(name: str) -> bool:
    """Whether the operating system's bytes of the name are UTF-8."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def _abandon(stream: Any) -> None:
    """Leave an upload incomplete; the store drops its parts by its own rule for such uploads.

    pyarrow has no call for this. Closing a stream, which its destructor also does, would complete the upload and replace
    the object by a part of it, or later by older content. So the stream is leaked on purpose.
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
