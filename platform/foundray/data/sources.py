"""What is in a raw file: documents, or rows of a modality that has rows of its own, and what of them cannot be used."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, TypeVar

import pyarrow as pa
import pyarrow.parquet as pq

from foundray.contract import Unreadable, Values
from foundray.data.archive import members
from foundray.data.compression import decompressed
from foundray.data.files import RawFile
from foundray.spec import Source
from foundray.storage import Store, reading

_Row = TypeVar("_Row", "Document", "Document | BadRow")

AMBIGUOUS = str.maketrans("RYSWKMBDHVU", "NNNNNNNNNNT")
"""IUPAC's letters for a base that is not known for sure, and RNA's U."""


@dataclass(frozen=True)
class Document:
    text: str


@dataclass(frozen=True)
class BadRow:
    position: str
    """Where in the file: `line 3`, `row 7`, `byte 120`."""
    reason: str


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


def in_batches(documents: Iterable[_Row], most: int = 4096, characters: int = 2**20) -> Iterator[list[_Row]]:
    """Neighbours together, as many as are tokenized in one call: so many, or of about so many characters; never none."""
    batch, length = list[_Row](), 0
    for document in documents:
        batch.append(document)
        length += len(document.text) if isinstance(document, Document) else 0
        if len(batch) == most or length >= characters:
            yield batch
            batch, length = [], 0
    if batch:
        yield batch


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
