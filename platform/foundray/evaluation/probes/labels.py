"""Labels of examples, from files beside the data or from the data's names."""

from __future__ import annotations

import re
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from pydantic import field_validator, model_validator

from foundray.contract import Unreadable
from foundray.contract.ts_cases import Case, cases
from foundray.data.files.names import format_of
from foundray.data.formats import module
from foundray.data.prepare.sources import read_whole
from foundray.errors import InputError
from foundray.evaluation.encoder import Row
from foundray.spec import SourceConfig
from foundray.spec.formats import FORMATS, listed
from foundray.spec.section import Section
from foundray.storage import Store, reading

FOLDER = r"(?P<label>[^/]+)/[^/]*$"
"""Pattern for the name of a file's folder."""


@dataclass(frozen=True)
class Label:
    example: str
    """Name of the example; rows with the same name are parts of one example."""
    label: str
    group: str = ""
    """Origin of the example if known, such as the speaker."""


class Labels(Section):
    kind: Literal["name", "idx", "case", "column"]
    """Source of the labels: names of files or archive members (`name`), idx files beside idx images (`idx`), the class of each
    case in .ts files (`case`), or a column of CSV, JSON Lines or Parquet (`column`)."""
    pattern: str = FOLDER
    """For kind `name`: a regular expression to search for in the name, with a group `label` and optionally a group `group`
    (default: the folder's name)."""
    column: str = "label"
    """For kind `column`: the column's name."""

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
                raise ValueError(f"{name} goes with kind {kind!r}, but the kind is {self.kind!r}")
        return self

    @property
    def groups(self) -> bool:
        """Whether the labels include a group."""
        return self.kind == "name" and "group" in re.compile(self.pattern).groupindex

    def finder(self, source: SourceConfig) -> Callable[[Row], Label]:
        """A function from a row to its label, which raises InputError for a row without one."""
        if self.kind == "name":
            return self._in_name
        tables: dict[str, Mapping[str, str]] = {}

        def find(row: Row) -> Label:
            if row.file not in tables:
                tables[row.file] = self._table(row.file, source)
            position = row.position.partition(",")[0]
            if (label := tables[row.file].get(row.location or position)) is None:
                raise InputError(f"labels: {row.file}, {position} has none")
            return Label(f"{row.file}, {position}", label)

        return find

    def _in_name(self, row: Row) -> Label:
        if (found := re.search(self.pattern, row.name)) is None:
            raise InputError(f"labels.pattern: {row.name} does not match {self.pattern}")
        return Label(row.name, found["label"], found["group"] if self.groups else "")

    def _table(self, file: str, source: SourceConfig) -> Mapping[str, str]:
        """Labels by position in a file."""
        match self.kind:
            case "idx":
                return {f"image {index}": str(label) for index, label in enumerate(_idx_labels(file))}
            case "case":
                return _case_labels(file)
            case _:
                values = _column(file, source, self.column)
                return {position: str(value) for position, value in values.items() if value not in (None, "")}


def _idx_labels(images: str) -> bytes:
    """Labels in `...-labels-idx1-ubyte` for the images in `...-images-idx3-ubyte`. Raises InputError."""
    file = re.sub(r"images([-.])idx3", r"labels\1idx1", images)
    if file == images:
        raise InputError(f"labels: {images} is not named ...images-idx3-ubyte, so its labels cannot be found beside it")
    content = read_whole(file)
    if len(content) < 8 or struct.unpack(">HBBI", content[:8]) != (0, 8, 1, len(content) - 8):
        raise InputError(f"labels: {file} is not an idx file of labels, or is truncated")
    return content[8:]


def _case_labels(file: str) -> dict[str, str]:
    """Class of each usable case of a .ts file, by line. Raises InputError."""
    labels = {}
    try:
        for line, header, case in cases(read_whole(file)):
            if header.label == "target":
                raise InputError(
                    f"labels: {file} has @targetLabel: its cases have numbers, not classes, and a probe needs classes"
                )
            if isinstance(case, Case):
                if case.label is None:
                    raise InputError(f"labels: {file} has no @classLabel true, so its cases have no class")
                labels[f"line {line}"] = case.label
    except Unreadable as error:
        raise InputError(f"labels: {file}: {error}") from None
    return labels


def _column(file: str, source: SourceConfig, name: str) -> dict[str, Any]:
    """Values of a column, by the position of their documents. Raises InputError."""
    store = Store.at(file)
    form = format_of(file) if source.format == "auto" else source.format
    if form not in FORMATS or not FORMATS[form].has_columns:
        known = listed(sorted(row.name for row in FORMATS.values() if row.has_columns), "and")
        raise InputError(f"labels.kind: only {known} have columns, and the format of {file} is {form}")
    with reading(file), store.filesystem.open_input_file(store.path) as handle:
        try:
            return dict(module(form).column(handle, store.path, name, source))
        except Unreadable as error:
            raise InputError(f"labels.column: {file}: {error}") from None
