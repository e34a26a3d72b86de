"""The format of data to embed, from file extensions and the run's own sources."""

from __future__ import annotations

import posixpath
from collections.abc import Mapping
from typing import Any

from foundray.contract import Values, endings
from foundray.data.files.files import find_files
from foundray.data.files.names import bare, format_of
from foundray.errors import InputError
from foundray.spec import SourceConfig, Spec
from foundray.spec.loading import checked, overridden, set_field


def source_of(data: str, spec: Spec, overrides: Mapping[str, Any]) -> SourceConfig:
    """Describe `data` (a file, folder, glob or URL) as a source for a run of this spec.

    File extensions decide the format; the run's own source of that format, the other fields. `overrides` precede both. Raises
    InputError for data that the run cannot read.
    """

    def read(given: Mapping[str, Any]) -> SourceConfig:
        form = given.get("format") or _format(data, spec)
        own = next((source for like in (form, "auto") for source in spec.data.sources if source.format == like), None)
        fields: dict[str, Any] = own.model_dump(exclude={"weight"}) if own else {}
        fields |= {"path": data, "format": form}
        for name, value in given.items():
            set_field(fields, name, value, "--set")
        return checked(SourceConfig, fields, data)

    return overridden(read, overrides, data)


def _format(data: str, spec: Spec) -> str:
    """The one format of all files, or `auto` if they have several or some have none."""
    modality = spec.data.modality.build()
    of_values = modality.endings if isinstance(modality, Values) else ()
    names = [file.url for file in find_files(checked(SourceConfig, {"path": data, "format": "text"}, data))]
    found = {format_of(name, of_values) or "" for name in names}
    if found == {""}:
        raise InputError(f"{data}: {_no_format(names[0], of_values, spec)}")
    if found == {"text", "code"}:
        return "text"
    return found.pop() if len(found) == 1 else "auto"


def _no_format(name: str, of_values: tuple[str, ...], spec: Spec) -> str:
    trained, name = f"{spec.name} was trained on {spec.data.modality.kind}", posixpath.basename(bare(name))
    if of_values:
        return (
            f"{trained}, read from {', '.join(of_values)} or tar archives, and here is {name}; if it is one of those, give "
            "--set format=files"
        )
    if (other := next((kind for kind, those in endings().items() if name.endswith(those)), None)) is not None:
        return f"{name} is of the modality {other}, and {trained}"
    return f"{name} has an unknown format; if it is text, give --set format=text"
