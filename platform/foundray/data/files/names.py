"""What a file's name says: whether it counts, how it is compressed, and what its format is. Case never matters.

One rule serves folders and archives alike.
"""

from __future__ import annotations

import functools
import posixpath
import re

from foundray import contract
from foundray.spec.formats import FORMATS

COMPRESSION = {
    ".gz": "gzip", ".bgz": "gzip", ".zst": "zstd", ".zstd": "zstd", ".xz": "xz", ".bz2": "bz2", ".lz4": "lz4",
}  # fmt: skip

"""Of each format of documents, what the names of its files end in once `bare`."""

_FORMATS = {ending: form for form, row in FORMATS.items() for ending in row.endings if ending}
_TAR = {".tgz": "gzip", ".tbz": "bz2", ".tbz2": "bz2", ".txz": "xz", ".tzst": "zstd"}
"""Endings that stand for `.tar` and that of a compression."""
_NO_TEXT = frozenset({
    # archives, and compressions that are not read
    ".zip", ".7z", ".rar", ".z", ".lzma", ".lz", ".lzo", ".br", ".cab", ".iso", ".dmg", ".deb", ".rpm", ".apk", ".jar", ".war",
    ".whl", ".egg", ".cpio", *COMPRESSION,
    # programs, and what compilers leave
    ".exe", ".dll", ".so", ".o", ".a", ".obj", ".lib", ".dylib", ".pyc", ".pyo", ".pyd", ".class", ".wasm", ".bin", ".mo",
    # office and print
    ".pdf", ".doc", ".docx", ".xls", ".xlsx", ".ppt", ".pptx", ".odt", ".ods", ".odp", ".epub", ".mobi", ".djvu",
    # pictures, sound, film and fonts that no installed modality reads
    ".png", ".jpg", ".jpeg", ".gif", ".webp", ".bmp", ".tif", ".tiff", ".ico", ".icns", ".heic", ".avif", ".psd", ".wav",
    ".mp3", ".ogg", ".flac", ".opus", ".m4a", ".aac", ".wma", ".aiff", ".mid", ".mp4", ".m4v", ".avi", ".mov", ".mkv", ".webm",
    ".mpg", ".mpeg", ".wmv", ".flv", ".ttf", ".otf", ".woff", ".woff2", ".eot",
    # arrays, tables, models and databases
    ".npy", ".npz", ".mat", ".h5", ".hdf5", ".nc", ".pkl", ".pickle", ".joblib", ".pt", ".pth", ".ckpt", ".safetensors",
    ".onnx", ".pb", ".tflite", ".gguf", ".msgpack", ".arrow", ".feather", ".orc", ".avro", ".tfrecord", ".lmdb", ".mdb", ".rds",
    ".rdata", ".db", ".sqlite", ".sqlite3", ".bam", ".bai", ".cram", ".2bit",
    # copies, checksums and indexes of what lies beside them
    ".bak", ".orig", ".old", ".tmp", ".swp", ".crc", ".md5", ".sha1", ".sha256", ".idx",
})  # fmt: skip
_NO_DATA = ("_success", "_metadata", "_common_metadata")
"""Names of what Spark and Hadoop leave beside tables."""


def is_hidden(name: str) -> bool:
    """Whether a path inside a folder or archive leads through a hidden file or folder, or is what macOS left beside a file."""
    return any(part.startswith(".") or part == "__MACOSX" for part in name.split("/"))


def compression(name: str) -> str | None:
    """How the file is compressed, by its ending."""
    last = _last(name.lower())
    return COMPRESSION.get(last) or _TAR.get(last)


def bare(name: str) -> str:
    """The name in lower case, without the ending of a compression: `A.TXT.gz` as `a.txt`, `a.tgz` as `a.tar`."""
    name = name.lower()
    last = _last(name)
    return name.removesuffix(last) + (".tar" if last in _TAR else "") if last in _TAR or last in COMPRESSION else name


def ending(name: str) -> str:
    """How the name ends, in lower case and with a compression's ending: `.csv.gz`; nothing if it has no ending."""
    last = _last(name := posixpath.basename(name).lower())
    found = _last(name.removesuffix(last)) + last if last in COMPRESSION else last
    return found if re.fullmatch(r"(\.[\w+-]{1,16}){1,2}", found) else ""


def ends_in(name: str, endings: tuple[str, ...]) -> bool:
    """Whether the name, without a compression's ending, has one of these endings (in lower case)."""
    return bare(name).endswith(endings)


def format_of(name: str, endings: tuple[str, ...] = ()) -> str | None:
    """The format that the name tells, as `data.sources` say it; None for what is known not to be read.

    Of documents, where no `endings` are given: what has another ending, or none, is text. Of a modality whose files have
    `endings`: `files` or `webdataset`.
    """
    name = bare(name)
    if endings:
        return "files" if name.endswith(endings) else "webdataset" if name.endswith(FORMATS["webdataset"].endings) else None
    last = _last(name)
    if (form := _FORMATS.get(last)) is not None:
        return form
    if last in _NO_TEXT or name.endswith("~") or name.endswith(_of_values()) or posixpath.basename(name) in _NO_DATA:
        return None
    return "text"


def _last(name: str) -> str:
    return posixpath.splitext(name)[1]


@functools.cache
def _of_values() -> tuple[str, ...]:
    """Endings of the files of installed modalities of values, and of the labels beside them."""
    return (*(ending for endings in contract.endings().values() for ending in endings), "idx1-ubyte")
