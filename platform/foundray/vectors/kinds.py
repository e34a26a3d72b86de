"""What kind of data a place holds, told by the endings of its files' names and by what the run was trained on."""

from __future__ import annotations

import posixpath
from collections.abc import Mapping
from typing import Any

from foundray.contract import Values, endings
from foundray.data.files import find_files
from foundray.data.names import ENDINGS, bare
from foundray.errors import InputError
from foundray.loading import checked, set_field
from foundray.spec import Source, Spec

STRUCTURED = ("jsonl", "csv", "parquet", "fasta", "conllu", "webdataset")
"""Formats that are known by their endings; every other file is plain text, or code."""


def source_of(data: str, spec: Spec, overrides: Mapping[str, Any]) -> Source:
    """The source that `data` is for a run of this spec: a file, folder, glob or URL.

    Its format follows from the endings of its files; what else a source has, from the run's own source of that format;
    `overrides` are fields of a source that go before both. Raises InputError for data that the run cannot take.
    """
    form = overrides.get("format") or _format(data, spec)
    own = next((source for source in spec.data.sources if source.format == form), None)
    fields: dict[str, Any] = own.model_dump(exclude={"weight"}) if own else {}
    fields |= {"path": data, "format": form}
    for name, value in overrides.items():
        set_field(fields, name, value, "--set")
    return checked(Source, fields, data)


def _format(data: str, spec: Spec) -> str:
    modality = spec.data.modality.build()
    names = [bare(file.url) for file in find_files(Source(path=data, format="text"))]
    found = {_kind(name): name for name in reversed(names)}
    if isinstance(modality, Values):
        fit = [name for name in names if name.endswith(modality.endings)]
        if fit or "webdataset" in found:
            return "files" if fit else "webdataset"
        raise InputError(
            f"{data}: {spec.name} was trained on {spec.data.modality.kind}, read from {', '.join(modality.endings)} or tar "
            f"archives, and here is {posixpath.basename(names[0])}; if it is one of those, say so by --set format=files"
        )
    structured = sorted(set(found) & set(STRUCTURED))
    if not structured:
        for name in names:
            if _kind(name) == "text" and (other := _modality_of(name)) is not None:
                raise InputError(
                    f"{data}: {posixpath.basename(name)} is of the modality {other}, and {spec.name} was trained on "
                    f"{spec.data.modality.kind}"
                )
        return "code" if set(found) == {"code"} else "text"
    plain = [name for name in names if name.endswith(".txt")]
    if len(structured) > 1 or plain:
        some = " and ".join(posixpath.basename(name) for name in [*(found[form] for form in structured), *plain[:1]])
        raise InputError(f"{data}: it holds files of several formats ({some}); say which by --set format={structured[0]}")
    return structured[0]


def _kind(name: str) -> str:
    return next((form for form in (*STRUCTURED, "code") if name.endswith(ENDINGS[form])), "text")


def _modality_of(name: str) -> str | None:
    """The installed modality whose files these are."""
    return next((kind for kind, those in endings().items() if name.endswith(those)), None)
