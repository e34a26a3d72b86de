"""Raw sources: which files there are, and the documents and bad rows inside each."""

from __future__ import annotations

import io
import json
import posixpath
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow import fs

from foundray.errors import InputError
from foundray.spec import Source
from foundray.storage import Store, reading

COMPRESSION = {".gz": "gzip", ".zst": "zstd"}
ENDINGS = {"jsonl": (".jsonl", ".json", ".ndjson"), "parquet": (".parquet", ".pq"), "text": ("",)}


@dataclass(frozen=True)
class RawFile:
    """One input file, and what tells that it has changed."""

    url: str
    size: int
    modified_ns: int


@dataclass(frozen=True)
class Document:
    text: str


@dataclass(frozen=True)
class BadRow:
    position: str
    """Where in the file: `line 3`, `row 7`, `byte 120`."""
    reason: str


def find_files(source: Source) -> list[RawFile]:
    """The source's files in path order. Raises InputError where there are none."""
    base, pattern = _split_glob(source.path)
    root = Store.at(base)
    with reading(source.path):
        info = root.info()
        if info.type == fs.FileType.NotFound:
            raise InputError(f"the source {source.path} does not exist (looked for {root})")
        if info.type == fs.FileType.File:
            found = [info]
        else:
            found = root.filesystem.get_file_info(fs.FileSelector(root.path, recursive=True))
    files = [
        RawFile(root.url + entry.path[len(root.path) :], entry.size or 0, entry.mtime_ns or 0)
        for entry in sorted(found, key=lambda entry: entry.path)
        if entry.type == fs.FileType.File and (entry is info or _wanted(entry.path[len(root.path) + 1 :], pattern, source))
    ]
    if not files:
        looked = f"no file matches {pattern!r}" if pattern else f"it holds no {source.format} file"
        raise InputError(f"the source {source.path} is empty: {looked}")
    return files


def _wanted(name: str, pattern: str, source: Source) -> bool:
    if any(part.startswith(".") for part in name.split("/")):
        return False
    if pattern:
        return re.fullmatch(_glob_to_regex(pattern), name) is not None
    stem, ending = posixpath.splitext(name)
    return (stem if ending in COMPRESSION else name).endswith(ENDINGS[source.format])


def _split_glob(path: str) -> tuple[str, str]:
    """`data/**/*.txt` as `("data", "**/*.txt")`."""
    parts = path.split("/")
    first = next((i for i, part in enumerate(parts) if re.search(r"[*?\[]", part)), len(parts))
    return "/".join(parts[:first]) or ("/" if path.startswith("/") else "."), "/".join(parts[first:])


def _glob_to_regex(pattern: str) -> str:
    table = {"**/": "(?:.*/)?", "**": ".*", "*": "[^/]*", "?": "[^/]"}
    tokens = re.findall(r"\*\*/|\*\*|\*|\?|\[[^\]]*\]|.", pattern)
    return "".join(table.get(t) or (t.replace("[!", "[^") if len(t) > 1 else re.escape(t)) for t in tokens)


def read_documents(file: RawFile, source: Source) -> Iterator[Document | BadRow]:
    """The file's documents in order, with a BadRow in place of each that cannot be used."""
    reader = {"text": _read_text, "jsonl": _read_json_lines, "parquet": _read_parquet}[source.format]
    store = Store.at(file.url)
    with reading(file.url):
        handle = store.filesystem.open_input_file(store.path)
    with handle:
        yield from reader(handle, store.path, source)


def _lines(handle: pa.NativeFile, path: str) -> Iterator[tuple[int, bytes | BadRow]]:
    """Numbered lines without their ends; a compressed stream that breaks off ends in a BadRow."""
    number = 0
    try:
        for number, line in enumerate(_decompressed(handle, path), 1):
            yield number, line.rstrip(b"\r\n")
    except OSError as error:
        yield number + 1, BadRow(f"line {number + 1}", f"the compressed stream is broken: {error}")


def _decompressed(handle: pa.NativeFile, path: str) -> io.BufferedReader:
    compression = COMPRESSION.get(posixpath.splitext(path)[1])
    stream = pa.CompressedInputStream(handle, compression) if compression else handle
    return io.BufferedReader(stream, 2**20)


def _read_text(handle: pa.NativeFile, path: str, source: Source) -> Iterator[Document | BadRow]:
    if source.documents == "file":
        try:
            yield _decode(_decompressed(handle, path).read(), "byte 0", lambda at: f"byte {at}")
        except OSError as error:
            yield BadRow("byte 0", f"the compressed stream is broken: {error}")
        return
    block: list[bytes] = []
    start = 1
    for number, line in _lines(handle, path):
        if isinstance(line, BadRow):
            yield line
            break
        if line.strip():
            start = start if block else number
            block.append(line)
        if block and (source.documents == "line" or not line.strip()):
            yield _decode(b"\n".join(block), f"line {start}")
            block = []
    if block:
        yield _decode(b"\n".join(block), f"line {start}")


def _read_json_lines(handle: pa.NativeFile, path: str, source: Source) -> Iterator[Document | BadRow]:
    for number, line in _lines(handle, path):
        where = f"line {number}"
        if isinstance(line, BadRow):
            yield line
            break
        try:
            row = json.loads(line.decode("utf-8"))
        except UnicodeDecodeError as error:
            yield BadRow(where, f"not UTF-8 (byte {error.start} of the line)")
        except (json.JSONDecodeError, RecursionError) as error:
            yield BadRow(where, f"not JSON: {error}" if line.strip() else "empty")
        else:
            yield _field(row, where, source.field)


def _field(row: Any, where: str, field: str) -> Document | BadRow:
    if not isinstance(row, dict):
        return BadRow(where, "not a JSON object")
    if field not in row:
        return BadRow(where, f"no field {field!r}")
    return _text(row[field], where, field)


def _read_parquet(handle: pa.NativeFile, path: str, source: Source) -> Iterator[Document | BadRow]:
    try:
        table = pq.ParquetFile(handle)
        if source.field not in table.schema_arrow.names:
            yield BadRow("row 0", f"no column {source.field!r}; there are: {', '.join(table.schema_arrow.names)}")
            return
        number = 0
        for batch in table.iter_batches(batch_size=1024, columns=[source.field]):
            for value in batch.column(0).to_pylist():
                yield _text(value, f"row {number}", source.field)
                number += 1
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        yield BadRow("row 0", f"not readable as Parquet: {error}")


def _text(value: Any, where: str, field: str) -> Document | BadRow:
    if isinstance(value, bytes):
        return _decode(value, where)
    if not isinstance(value, str):
        return BadRow(where, f"{field!r} is {'missing' if value is None else 'not text'}")
    try:
        value.encode("utf-8")
    except UnicodeEncodeError:
        return BadRow(where, "holds half a surrogate pair, which is not Unicode text")
    return Document(value) if value.strip() else BadRow(where, "empty")


def _decode(content: bytes, where: str, at: Any = None) -> Document | BadRow:
    try:
        text = content.decode("utf-8")
    except UnicodeDecodeError as error:
        return BadRow(at(error.start) if at else where, f"not UTF-8 (byte 0x{content[error.start]:02x})")
    return Document(text) if text.strip() else BadRow(where, "empty")
