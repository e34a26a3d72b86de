"""Raw sources: which files there are, and the documents and bad rows inside each."""

from __future__ import annotations

import csv
import io
import json
import posixpath
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow import fs

from foundray.contract import Unreadable, Values
from foundray.data.archive import members
from foundray.data.compression import COMPRESSION, decompressed
from foundray.errors import InputError
from foundray.spec import Source
from foundray.storage import Store, reading

ENDINGS: dict[str, tuple[str, ...]] = {
    "text": ("",),
    "code": (
        ".c", ".cc", ".cpp", ".cs", ".cu", ".go", ".h", ".hpp", ".java", ".jl", ".js", ".jsx", ".kt", ".lua", ".ml", ".php",
        ".pl", ".py", ".r", ".rb", ".rs", ".scala", ".sh", ".sql", ".swift", ".ts", ".tsx", ".zig",
    ),
    "jsonl": (".jsonl", ".json", ".ndjson"),
    "csv": (".csv",),
    "parquet": (".parquet", ".pq"),
    "fasta": (".fasta", ".fa", ".fna", ".ffn"),
    "conllu": (".conllu",),
    "webdataset": (".tar", ".tgz"),
}  # fmt: skip
AMBIGUOUS = str.maketrans("RYSWKMBDHVU", "NNNNNNNNNNT")
"""IUPAC's letters for a base that is not known for sure, and RNA's U."""


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


def find_files(source: Source, endings: tuple[str, ...] = ()) -> list[RawFile]:
    """The source's files in path order, of the endings given where the format is `files`. Raises InputError for none."""
    endings = ENDINGS.get(source.format, endings)
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
        if entry.type == fs.FileType.File and (entry is info or _wanted(entry.path[len(root.path) + 1 :], pattern, endings))
    ]
    if not files:
        looked = f"no file matches {pattern!r}" if pattern else f"it holds no {source.format} file"
        raise InputError(f"the source {source.path} is empty: {looked}")
    return files


def grouped(files: Iterable[RawFile], most_bytes: int, most_files: int | None = None) -> Iterator[tuple[RawFile, ...]]:
    """Neighbouring files together, up to so many bytes, or one larger file."""
    group: list[RawFile] = []
    for file in files:
        if group and (sum(f.size for f in group) + file.size > most_bytes or len(group) == most_files):
            yield tuple(group)
            group = []
        group.append(file)
    if group:
        yield tuple(group)


def _wanted(name: str, pattern: str, endings: tuple[str, ...]) -> bool:
    if any(part.startswith(".") for part in name.split("/")):
        return False
    if pattern:
        return re.fullmatch(_glob_to_regex(pattern), name) is not None
    stem, ending = posixpath.splitext(name)
    return (stem if ending in COMPRESSION else name).lower().endswith(endings)


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
    readers: dict[str, Callable[[pa.NativeFile, str, Source], Iterator[Document | BadRow]]] = {
        "text": _read_text, "code": _read_text, "jsonl": _read_json_lines, "csv": _read_csv, "parquet": _read_parquet,
        "fasta": _read_fasta, "conllu": _read_conllu, "webdataset": _read_archive,
    }  # fmt: skip
    reader = readers[source.format]
    store = Store.at(file.url)
    with reading(file.url):
        handle = store.filesystem.open_input_file(store.path)
    with handle:
        yield from reader(handle, store.path, source)


def read_rows(file: RawFile, source: Source, modality: Values, length: int) -> Iterator[dict[str, Any] | BadRow]:
    """The rows of a modality that has files of its own, in order, with a BadRow in place of what cannot be used."""
    for _, _, row in read_located_rows(file, source, modality, length):
        yield row


def read_located_rows(
    file: RawFile, source: Source, modality: Values, length: int
) -> Iterator[tuple[str, str, dict[str, Any] | BadRow]]:
    """(path of the file, or name in the archive; position in it; row), as `read_rows` gives them."""
    store = Store.at(file.url)
    with reading(file.url):
        handle = store.filesystem.open_input_file(store.path)
    with handle:
        stream = decompressed(handle, store.path)
        if source.format == "webdataset":
            for name, content in members(stream):
                if isinstance(content, Unreadable):
                    yield name, "", BadRow(name or "end", str(content))
                elif name.lower().endswith(modality.endings):
                    yield from _rows(modality, name, content, length, name)
        else:
            try:
                content = stream.read()
            except OSError as error:
                yield store.path, "", BadRow("byte 0", f"the compressed stream is broken: {error}")
                return
            yield from _rows(modality, store.path, content, length, "")


def _rows(
    modality: Values, name: str, content: bytes, length: int, label: str
) -> Iterator[tuple[str, str, dict[str, Any] | BadRow]]:
    try:
        for position, row in modality.rows(name, content, length):
            where = f"{label}, {position}" if label else position
            yield name, position, BadRow(where, str(row)) if isinstance(row, Unreadable) else row
    except Unreadable as error:
        yield name, "", BadRow(label or "byte 0", str(error))


def read_whole(url: str) -> bytes:
    """What a file holds, decompressed. Raises InputError."""
    store = Store.at(url)
    with reading(url), store.filesystem.open_input_file(store.path) as handle:
        return decompressed(handle, store.path).read()


def _read_archive(handle: pa.NativeFile, path: str, source: Source) -> Iterator[Document | BadRow]:
    """Its .txt files, and the field of its .json files."""
    for name, content in members(decompressed(handle, path)):
        if isinstance(content, Unreadable):
            yield BadRow(name or "end", str(content))
        elif name.endswith(".txt"):
            yield _decode(content, name)
        elif name.endswith(".json"):
            yield _json(content, name, source.field)


def _read_csv(handle: pa.NativeFile, path: str, source: Source) -> Iterator[Document | BadRow]:
    lines = io.TextIOWrapper(decompressed(handle, path), encoding="utf-8", errors="surrogateescape", newline="")
    rows = csv.reader(lines)
    try:
        names = next(rows, [])
        if source.field not in names:
            yield BadRow("line 1", f"no column {source.field!r}; there are: {', '.join(names)}")
            return
        at = names.index(source.field)
        for row in rows:
            where = f"line {rows.line_num}"
            if len(row) == len(names):
                yield _text(row[at], where, source.field)
            elif row:
                yield BadRow(where, f"{len(row)} fields under a header of {len(names)}")
    except (csv.Error, OSError) as error:
        yield BadRow(f"line {rows.line_num}", f"not readable as CSV: {error}")


def _read_fasta(handle: pa.NativeFile, path: str, source: Source) -> Iterator[Document | BadRow]:
    """Each sequence is a document, in capitals; letters for uncertain bases become N."""
    name, bad = "", None
    parts: list[str] = []
    for number, line in _lines(handle, path):
        if isinstance(line, BadRow):
            yield line
            return
        if line.startswith(b">"):
            yield from _sequence(name, parts, bad)
            name, parts, bad = line[1:].split(b" ")[0].decode("ascii", "replace"), [], None
        elif line.strip():
            letters = line.strip().decode("ascii", "replace").upper().translate(AMBIGUOUS)
            if (strange := set(letters) - set("ACGTN")) and bad is None:
                bad = BadRow(f"line {number}", f"{min(strange)!r} is no nucleotide (sequence {name or 'without a name'})")
            parts.append(letters)
    yield from _sequence(name, parts, bad)


def _sequence(name: str, parts: list[str], bad: BadRow | None) -> Iterator[Document | BadRow]:
    if bad:
        yield bad
    elif parts:
        yield Document("".join(parts))
    elif name:
        yield BadRow(f"sequence {name}", "empty")


def _read_conllu(handle: pa.NativeFile, path: str, source: Source) -> Iterator[Document | BadRow]:
    """The texts of a treebank of Universal Dependencies, a sentence a line; where it tells documents, each is one."""
    start, sentences = 1, list[bytes]()
    for number, line in _lines(handle, path):
        if isinstance(line, BadRow):
            yield line
            break
        if line.startswith(b"# newdoc"):
            if sentences:
                yield _decode(b"\n".join(sentences), f"line {start}")
            start, sentences = number, []
        elif line.startswith(b"# text = "):
            sentences.append(line.removeprefix(b"# text = "))
    if sentences:
        yield _decode(b"\n".join(sentences), f"line {start}")


def _lines(handle: pa.NativeFile, path: str) -> Iterator[tuple[int, bytes | BadRow]]:
    """Numbered lines without their ends; a compressed stream that breaks off ends in a BadRow."""
    number = 0
    try:
        for number, line in enumerate(decompressed(handle, path), 1):
            yield number, line.rstrip(b"\r\n")
    except OSError as error:
        yield number + 1, BadRow(f"line {number + 1}", f"the compressed stream is broken: {error}")


def _read_text(handle: pa.NativeFile, path: str, source: Source) -> Iterator[Document | BadRow]:
    if source.documents == "file":
        try:
            yield _decode(decompressed(handle, path).read(), "byte 0", lambda at: f"byte {at}")
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
        if isinstance(line, BadRow):
            yield line
            break
        yield _json(line, f"line {number}", source.field)


def _json(content: bytes, where: str, field: str) -> Document | BadRow:
    try:
        row = json.loads(content.decode("utf-8"))
    except UnicodeDecodeError as error:
        return BadRow(where, f"not UTF-8 (byte {error.start} of the line)")
    except (json.JSONDecodeError, RecursionError) as error:
        return BadRow(where, f"not JSON: {error}" if content.strip() else "empty")
    return _field(row, where, field)


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
