"""What decides prepared data: its recipe, whose hash names the folder, and the units that its raw files are cut into.

The cut depends on the files alone, never on the machine, so the same input gives the same shards. Files count by their real
names, so however a spec writes where they lie, they are prepared once.
"""

from __future__ import annotations

import itertools
import posixpath
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from foundray.contract import Values
from foundray.data.files.files import Found, RawFile, grouped, look
from foundray.data.prepare.shard import Unit
from foundray.data.tokenizers.file import load_file, recipe_of_file
from foundray.data.tokenizers.long_documents import recipe_of_cuts
from foundray.errors import InputError
from foundray.spec import SourceConfig, Spec, differences, digest, flatten
from foundray.spec.arithmetic import of_data, raised
from foundray.storage import Store
from foundray.urls import canonical_names, path_of

UNIT_BYTES = 64 * 2**20
READING = 2
"""What the readers make of the same bytes: raised whenever they make something else of files that are whole."""


def units_read(spec: Spec) -> int:
    """Units of data in a sample, of which the objective makes at most `model.context`. Raises InputError."""
    read = spec.objective.build().reads(spec.model.context)
    if read < 2:
        raise InputError(f"model.context of {spec.model.context} is too short for {spec.objective.kind}")
    return read


def prepared_folder(spec: Spec, report: Callable[[str], None] = lambda line: None) -> tuple[Store, dict[str, Any], list[Unit]]:
    """Where the spec's prepared data belongs, the recipe that names it, and its units; `report` gets what is left out.

    Raises InputError.
    """
    found = source_files(spec)
    for source, one in zip(spec.data.sources, found, strict=True):
        if line := one.line(source):
            report(f"data: {line}")
    files = [one.files for one in found]
    units = [unit for index, some in enumerate(files) for unit in _units(index, some)]
    place = Store.at(spec.storage) / "prepared"
    folder, recipe = _folder(place, new := _recipe(spec, files)), new
    if not folder.exists():
        for earlier in _recipes_before(spec, files):
            if (there := _folder(place, earlier)).exists():
                folder, recipe = there, earlier
                break
    return folder, recipe, units


def changes(there: dict[str, Any], here: dict[str, Any]) -> list[str]:
    """One phrase for each thing in which two recipes differ for a person: how a path is written is none."""

    def plain(recipe: dict[str, Any]) -> dict[str, Any]:
        sources = [
            {name: source[name] for name in ("field", "documents")}
            | {"format": _formats(source)}
            | {"files": {url: facts[:2] for url, facts in source["files"].items()}}
            for source in recipe["sources"]
        ]
        return flatten({name: value for name, value in recipe.items() if name != "reading"} | {"sources": sources})

    return differences(plain(there), plain(here)) or ["the same files are read in another way"]


def formats_of(recipe: Mapping[str, Any], index: int, source: SourceConfig) -> str:
    """In words, the formats of the files of a source, as they were prepared."""
    if source.format != "auto" or "sources" not in recipe:
        return source.format
    return _formats(recipe["sources"][index])


def _formats(source: Mapping[str, Any]) -> str:
    """Of a recipe's source, also of a recipe that had one for all files."""
    return str(source.get("format") or " and ".join(sorted({facts[2] for facts in source["files"].values()})))


def source_files(spec: Spec) -> list[Found]:
    """The files of each source. Raises InputError for a source without any."""
    modality = spec.data.modality.build()
    endings = modality.endings if isinstance(modality, Values) else ()
    return [look(source, endings) for source in spec.data.sources]


def _folder(place: Store, recipe: dict[str, Any]) -> Store:
    return place / digest(recipe)[:16]


def _recipe(spec: Spec, files: list[list[RawFile]]) -> dict[str, Any]:
    """All that decides the shards' content. Weights and holdout decide the order alone, and licences nothing."""
    numbers, cut = raised(of_data(spec.arithmetic)), _cut(spec)
    if spec.data.tokenizer.kind == "file":
        cut["tokenizer"] |= recipe_of_cuts(load_file(spec.data.tokenizer))
    return {
        **cut,
        "reading": READING,
        **({"arithmetic": numbers} if numbers else {}),
        "sources": [
            source.model_dump(mode="json", exclude={"path", "format", "weight", "licence"}) | _named(found)
            for source, found in zip(spec.data.sources, files, strict=True)
        ],
    }


def _cut(spec: Spec) -> dict[str, Any]:
    """What rows are made of the sources' documents."""
    tokenizer, modality = spec.data.tokenizer, spec.data.modality
    fields = tokenizer.model_dump(mode="json", include={"kind", "vocab_size", "document_token", "sample_bytes"})
    if tokenizer.kind == "bpe":
        fields["seed"] = spec.seed
    if tokenizer.kind == "file":
        fields |= recipe_of_file(tokenizer)
    of_modality = {"modality": modality.model_dump(mode="json")} if modality.kind != "text" else {}
    return {"context": units_read(spec), "tokenizer": fields, **of_modality}


def _named(files: Sequence[RawFile]) -> dict[str, Any]:
    """By the one name of each file: its size, its time of change, its format, and what it was called if that is another name.

    The order counts if it is not that of the names, since shards follow it.
    """
    names = canonical_names(file.url for file in files)
    facts = [
        [file.size, file.modified_ns, "text" if file.format == "code" else file.format]  # they are read alike
        + ([called] if (called := posixpath.basename(path_of(file.url))) != posixpath.basename(path_of(name)) else [])
        for name, file in zip(names, files, strict=True)
    ]
    plain = all(before < name for before, name in itertools.pairwise(names))
    return {"files": dict(zip(names, facts, strict=True)), **({} if plain else {"order": digest([names, facts])})}


def _recipes_before(spec: Spec, files: list[list[RawFile]]) -> Iterator[dict[str, Any]]:
    """The recipes that the same data had when paths counted as they were written: in the spec, or in that of a run.

    None if the arithmetic was raised, or if a source has files of several formats, since then the same spec gave other rows.
    """
    if raised(of_data(spec.arithmetic)):
        return
    cut = _cut(spec)
    formats = [_formats_before(source, found) for source, found in zip(spec.data.sources, files, strict=True)]
    for absolute in (False, True):
        for chosen in itertools.product(*formats):
            yield {
                **cut,
                "sources": [
                    {
                        "path": Store.at(source.path).url if absolute else source.path,
                        "format": form,
                        "field": source.field,
                        "documents": source.documents,
                        "files": {file.url: [file.size, file.modified_ns] for file in found},
                    }
                    for source, form, found in zip(spec.data.sources, chosen, files, strict=True)
                ],
            }


def _formats_before(source: SourceConfig, files: Sequence[RawFile]) -> list[str]:
    """The formats that a source of these files could have had to be read as it is now."""
    if source.format != "auto":
        return [source.format]
    found = {file.format for file in files}
    return ["text", "code"] if found == {"code"} else ["text"] if found == {"text", "code"} else list(found)[: len(found) == 1]


def _units(source: int, files: list[RawFile]) -> Iterator[Unit]:
    for number, group in enumerate(grouped(files, UNIT_BYTES)):
        yield Unit(f"{source}-{number:05d}", source, group)
