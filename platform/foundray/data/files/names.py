"""What a file's name says: whether it is hidden, how it is compressed, and its format. Case never matters.

The same rules hold in folders and in archives.
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

_FORMATS = {ending: form for form, row in FORMATS.items() for ending in row.endings if ending}
_TAR = {".tgz": "gzip", ".tbz": "bz2", ".tbz2": "bz2", ".txz": "xz", ".tzst": "zstd"}
"""Endings that stand for `.tar` and a compression's ending."""
_NOT_TEXT = frozenset({
    # archives and compressions that are not supported
    ".zip", ".7z", ".rar", ".z", ".lzma", ".lz", ".lzo", ".br", ".cab", ".iso", ".dmg", ".deb", ".rpm", ".apk", ".jar", ".war",
    ".whl", ".egg", ".cpio", *COMPRESSION,
    # programs and compilers' outputs
    ".exe", ".dll", ".so", ".o", ".a", ".obj", ".lib", ".dylib", ".pyc", ".pyo", ".pyd", ".class", ".wasm", ".bin", ".mo",
    # office and print
    ".pdf", ".doc", ".docx", ".xls", ".xlsx", ".ppt", ".pptx", ".odt", ".ods", ".odp", ".epub", ".mobi", ".djvu",
    # images, audio, video and fonts
    ".png", ".jpg", ".jpeg", ".gif", ".webp", ".bmp", ".tif", ".tiff", ".ico", ".icns", ".heic", ".avif", ".psd", ".wav",
    ".mp3", ".ogg", ".flac", ".opus", ".m4a", ".aac", ".wma", ".aiff", ".mid", ".mp4", ".m4v", ".avi", ".mov", ".mkv", ".webm",
    ".mpg", ".mpeg", ".wmv", ".flv", ".ttf", ".otf", ".woff", ".woff2", ".eot",
    # arrays, tables, models and databases
    ".npy", ".npz", ".mat", ".h5", ".hdf5", ".nc", ".pkl", ".pickle", ".joblib", ".pt", ".pth", ".ckpt", ".safetensors",
    ".onnx", ".pb", ".tflite", ".gguf", ".msgpack", ".arrow", ".feather", ".orc", ".avro", ".tfrecord", ".lmdb", ".mdb", ".rds",
    ".rdata", ".db", ".sqlite", ".sqlite3", ".bam", ".bai", ".cram", ".2bit",
    # copies, checksums and indexes of other files
    ".bak", ".orig", ".old", ".tmp", ".swp", ".crc", ".md5", ".sha1", ".sha256", ".idx",
})  # fmt: skip
_NOT_DATA = ("_success", "_metadata", "_common_metadata")
"""Names of the files that Spark and Hadoop write beside tables."""


def is_hidden(name: str) -> bool:
    """Whether a path inside a folder or archive has a hidden part, or one that macOS writes beside files (`__MACOSX`)."""
    return any(part.startswith(".") or part == "__MACOSX" for part in name.split("/"))


def compression(name: str) -> str | None:
    """The compression of a file, by its ending; None if there is none."""
    last = _last(name.lower())
    return COMPRESSION.get(last) or _TAR.get(last)


def bare(name: str) -> str:
    """The name in lower case, without a compression's ending: `a.txt` for `A.TXT.gz`, `a.tar` for `a.tgz`."""
    name = name.lower()
    last = _last(name)
    return name.removesuffix(last) + (".tar" if last in _TAR else "") if last in _TAR or last in COMPRESSION else name


def ending(name: str) -> str:
    """The name's ending in lower case, with that of a compression: `.csv.gz`; empty if there is none."""
    last = _last(name := posixpath.basename(name).lower())
    found = _last(name.removesuffix(last)) + last if last in COMPRESSION else last
    return found if re.fullmatch(r"(\.[\w+-]{1,16}){1,2}", found) else ""


def ends_in(name: str, endings: tuple[str, ...]) -> bool:
    """Whether the name without a compression's ending has one of these endings (in lower case)."""
    return bare(name).endswith(endings)


def format_of(name: str, endings: tuple[str, ...] = ()) -> str | None:
    """The format of a file by its name, as in `data.sources`; None for a kind that is known not to be read.

    Without `endings`, documents are meant, and a name with an unknown ending, or none, is text. With the `endings` of a
    modality's files, the format is `files` or `webdataset`.
    """
    name = bare(name)
    if endings:
        return "files" if name.endswith(endings) else "webdataset" if name.endswith(FORMATS["webdataset"].endings) else None
    last = _last(name)
    if (form := _FORMATS.get(last)) is not None:
        return form
    if last in _NOT_TEXT or name.endswith("~") or name.endswith(_modality_endings()) or posixpath.basename(name) in _NOT_DATA:
        return None
    return "text"


def _last(name: str) -> str:
    return posixpath.splitext(name)[1]


@functools.cache
def _modality_endings() -> tuple[str, ...]:
    """Endings of the files of installed modalities, and of the labels beside idx images."""
    return (*(ending for endings in contract.endings().values() for ending in endings), "idx1-ubyte")
