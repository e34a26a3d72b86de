"""Where the labels of examples come from: beside the data, or in its names."""

from __future__ import annotations

import csv
import io
import json
import re
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import field_validator, model_validator

from foundray.data.sources import read_whole
from foundray.embedding import Row
from foundray.errors import InputError
from foundray.spec import Source
from foundray.spec.section import Section

FOLDER = r"(?P<label>[^/]+)/[^/]*$"
"""The name of the folder that a file is in."""


@dataclass(frozen=True)
class Label:
    example: str
    """Rows that bear the same one are parts of one example."""
    label: str
    group: str = ""
    """Who made it, where that is known, such as the speaker."""


class Labels(Section):
    kind: Literal["name", "idx", "case", "column"]
    """From the names of files or archive members; from idx files beside idx images; the class of each case in .ts files; or
    from a column of CSV, JSON Lines or Parquet."""
    pattern: str = FOLDER
    """Of kind `name`: a regular expression that is found in the name, with a group `label` and perhaps a group `group`
    (default: the folder's name)."""
    column: str = "label"
    """Of kind `column`: the column's name."""

    @field_validator("pattern")
    @classmethod
    def _compiles(cls, pattern: str) -> str:
        try:
            found = re.compile(pattern)
        except re.error as error:
            raise ValueError(f"not a regular expression: {error}") from None
        if "label" not in found.groupindex:
            raise ValueError("it has no group (?P<label>...)")
        return pattern

    @model_validator(mode="after")
    def _of_its_kind(self) -> Labels:
        for name, kind in (("pattern", "name"), ("column", "column")):
            if name in self.model_fields_set and self.kind != kind:
                raise ValueError(f"{name} goes with kind {kind!r}, and the kind is {self.kind!r}")
        return self

    @property
    def groups(self) -> bool:
        """Whether they tell a group, too."""
        return self.kind == "name" and "group" in re.compile(self.pattern).groupindex

    def finder(self, source: Source) -> Callable[[Row], Label]:
        """What tells a row's label. It raises InputError for a row that has none."""
        if self.kind == "name":
            return self._in_name
        tables: dict[str, Mapping[str, str]] = {}

        def find(row: Row) -> Label:
            if row.file not in tables:
                tables[row.file] = self._table(row.file, source)
            where = row.position.partition(",")[0]
            if (label := tables[row.file].get(where)) is None:
                raise InputError(f"labels: {row.file}, {where} has none")
            return Label(f"{row.file}, {where}", label)

        return find

    def _in_name(self, row: Row) -> Label:
        if (found := re.search(self.pattern, row.name)) is None:
            raise InputError(f"labels.pattern: {row.name} does not match {self.pattern}")
        return Label(row.name, found["label"], found["group"] if self.groups else "")

    def _table(self, file: str, source: Source) -> Mapping[str, str]:
        """Labels by position in a file."""
        match self.kind:
            case "idx":
                return {f"image {index}": str(label) for index, label in enumerate(_idx_labels(file))}
            case "case":
                return _case_labels(file)
            case _:
                values = _column(file, source, self.column)
                return {f"document {index}": str(value) for index, value in enumerate(values) if value not in (None, "")}


def _idx_labels(images: str) -> bytes:
    """Of `...-images-idx3-ubyte`, those in `...-labels-idx1-ubyte`. Raises InputError."""
    file = re.sub(r"images([-.])idx3", r"labels\1idx1", images)
    if file == images:
        raise InputError(f"labels: {images} is not named ...images-idx3-ubyte, so its labels cannot be found beside it")
    content = read_whole(file)
    if len(content) < 8 or struct.unpack(">HBBI", content[:8]) != (0, 8, 1, len(content) - 8):
        raise InputError(f"labels: {file} is not an idx file of labels, or not whole")
    return content[8:]


def _case_labels(file: str) -> dict[str, str]:
    """Of a .ts file: the last field of each case. Raises InputError."""
    lines = read_whole(file).decode("utf-8", errors="replace").splitlines()
    start = next((index for index, line in enumerate(lines) if line.strip().lower() == "@data"), None)
    if start is None or not any(line.lower().startswith("@classlabel true") for line in lines[:start]):
        raise InputError(f"labels: {file} has no @classLabel true, so its cases bear no class")
    return {
        f"line {number}": line.rpartition(":")[2].strip()
        for number, line in enumerate(lines[start + 1 :], start + 2)
        if line.strip()
    }


def _column(file: str, source: Source, name: str) -> list[Any]:
    """A value a document, as `read_documents` counts them: broken rows have None. Raises InputError."""
    content = read_whole(file)
    match source.format:
        case "jsonl":
            return [_field(line, name) for line in content.splitlines()]
        case "csv":
            rows = list(csv.reader(io.StringIO(content.decode("utf-8", "replace"), newline="")))
            names = rows[0] if rows else []
            if name not in names:
                raise InputError(f"labels.column: {file} has no column {name!r}; there are: {', '.join(names)}")
            at = names.index(name)
            return [row[at] if len(row) == len(names) else None for row in rows[1:] if row]
        case "parquet":
            table = pq.ParquetFile(pa.BufferReader(content)).read()  # in this thread, unlike `read_table`
            if name not in table.column_names:
                raise InputError(f"labels.column: {file} has no column {name!r}; there are: {', '.join(table.column_names)}")
            return table.column(name).to_pylist()
        case other:
            raise InputError(f"labels.kind: there are columns in csv, jsonl and parquet, and the format is {other}")


def _field(line: bytes, name: str) -> Any:
    try:
        row = json.loads(line)
    except ValueError:
        return None
    return row.get(name) if isinstance(row, dict) else None
