"""Recipe of prepared data, whose hash names the folder, and the units that its raw files are divided into.

The units depend on the files alone, never on the machine, so the same input gives the same shards. The recipe has the files'
canonical names, so the same files are prepared once, however a spec writes their path.
"""

from __future__ import annotations

import itertools
import posixpath
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from foundray.contract import Values
from foundray.data.files.files import Found, RawFile, grouped, look
from foundray.data.formats import Rewrites, rewrites
from foundray.data.prepare.shard import Unit
from foundray.data.tokenizers.file import load_file, recipe_of_file
from foundray.data.tokenizers.long_documents import recipe_of_cuts
from foundray.errors import InputError
from foundray.spec import SourceConfig, Spec, differences, digest, flatten
from foundray.spec.arithmetic import of_data, raised
from foundray.storage import Store
from foundray.urls import canonical_names, path_of

UNIT_BYTES = 64 * 2**20
"""Size of a unit's raw files, about."""
READING = 2
"""Version of the readers: raised whenever they read undamaged files differently."""


def units_read(spec: Spec) -> int:
    """Units of data per sample, from which the objective makes at most `model.context`. Raises InputError."""
    units = spec.objective.build().reads(spec.model.context)
    if units < 2:
        raise InputError(f"model.context of {spec.model.context} is too short for {spec.objective.kind}")
    return units


def prepared_folder(spec: Spec, report: Callable[[str], None] = lambda line: None) -> tuple[Store, dict[str, Any], list[Unit]]:
    """Folder of the spec's prepared data, its recipe, and its units. `report` receives what is left out. Raises InputError."""
    found = source_files(spec)
    for source, one in zip(spec.data.sources, found, strict=True):
        if line := one.line(source):
            report(f"data: {line}")
    files = [one.files for one in found]
    units = [unit for index, of_source in enumerate(files) for unit in _units(index, of_source)]
    root = Store.at(spec.storage) / "prepared"
    recipe = _recipe(spec, files)
    folder = _folder(root, recipe)
    # Data prepared by an earlier version is found under its own recipe.
    if not folder.exists():
        for earlier in _earlier_recipes(spec, files):
            if (found_folder := _folder(root, earlier)).exists():
                folder, recipe = found_folder, earlier
                break
    return folder, recipe, units


def changes(old: dict[str, Any], new: dict[str, Any]) -> list[str]:
    """One phrase per difference between two recipes that matters to a person; the spelling of a path does not."""

    def plain(recipe: dict[str, Any]) -> dict[str, Any]:
        sources = [
            {name: source[name] for name in ("field", "documents")}
            | {"format": _formats(source)}
            | {"files": {url: facts[:2] for url, facts in source["files"].items()}}
            for source in recipe["sources"]
        ]
        return flatten({name: value for name, value in recipe.items() if name != "reading"} | {"sources": sources})

    return differences(plain(old), plain(new)) or ["the same files are read in another way"]


def formats_of(recipe: Mapping[str, Any], index: int, source: SourceConfig) -> str:
    """Formats of a source's files as they were prepared, in words."""
    if source.format != "auto" or "sources" not in recipe:
        return source.format
    return _formats(recipe["sources"][index])


def rewrites_of(recipe: Mapping[str, Any], spec: Spec) -> Rewrites:
    """What the readers of the data did to the letters of all texts; empty if the sources' formats differ in it."""
    names = {formats_of(recipe, index, source) for index, source in enumerate(spec.data.sources)}
    return rewrites(names.pop()) if len(names) == 1 else ()


def _formats(source: Mapping[str, Any]) -> str:
    """Formats in a recipe's source; earlier recipes had one for all files."""
    return str(source.get("format") or " and ".join(sorted({facts[2] for facts in source["files"].values()})))


def source_files(spec: Spec) -> list[Found]:
    """Files of each source. Raises InputError for a source without any."""
    modality = spec.data.modality.build()
    endings = modality.endings if isinstance(modality, Values) else ()
    return [look(source, endings) for source in spec.data.sources]


def _folder(root: Store, recipe: dict[str, Any]) -> Store:
    return root / digest(recipe)[:16]


def _recipe(spec: Spec, files: list[list[RawFile]]) -> dict[str, Any]:
    """Everything that decides the shards' content. Weights and holdout only decide the order, and licences nothing."""
    versions, fields = raised(of_data(spec.arithmetic)), _row_fields(spec)
    if spec.data.tokenizer.kind == "file":
        fields["tokenizer"] |= recipe_of_cuts(load_file(spec.data.tokenizer))
    return {
        **fields,
        "reading": READING,
        **({"arithmetic": versions} if versions else {}),
        "sources": [
            source.model_dump(mode="json", exclude={"path", "format", "weight", "licence"}) | _file_facts(found)
            for source, found in zip(spec.data.sources, files, strict=True)
        ],
    }


def _row_fields(spec: Spec) -> dict[str, Any]:
    """Part of a recipe that decides how documents become rows."""
    tokenizer, modality = spec.data.tokenizer, spec.data.modality
    fields = tokenizer.model_dump(mode="json", include={"kind", "vocab_size", "document_token", "sample_bytes"})
    if tokenizer.kind == "bpe":
        fields["seed"] = spec.seed
    if tokenizer.kind == "file":
        fields |= recipe_of_file(tokenizer)
    of_modality = {"modality": modality.model_dump(mode="json")} if modality.kind != "text" else {}
    return {"context": units_read(spec), "tokenizer": fields, **of_modality}


def _file_facts(files: Sequence[RawFile]) -> dict[str, Any]:
    """Size, modification time, format, and name in the spec if it differs, of each file by its canonical name.

    The order counts if it is not that of the names, because shards follow it.
    """
    names = canonical_names(file.url for file in files)
    facts = [
        [file.size, file.modified_ns, "text" if file.format == "code" else file.format]  # they are read alike
        + ([called] if (called := posixpath.basename(path_of(file.url))) != posixpath.basename(path_of(name)) else [])
        for name, file in zip(names, files, strict=True)
    ]
    plain = all(before < name for before, name in itertools.pairwise(names))
    return {"files": dict(zip(names, facts, strict=True)), **({} if plain else {"order": digest([names, facts])})}


def _earlier_recipes(spec: Spec, files: list[list[RawFile]]) -> Iterator[dict[str, Any]]:
    """Recipes that the same data had when paths counted as written, in the spec or in that of a run.

    None if an arithmetic version was raised, or if a source has files of several formats: the same spec then gave other rows.
    """
    if raised(of_data(spec.arithmetic)):
        return
    fields = _row_fields(spec)
    formats = [_earlier_formats(source, found) for source, found in zip(spec.data.sources, files, strict=True)]
    for absolute in (False, True):
        for chosen in itertools.product(*formats):
            yield {
                **fields,
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


def _earlier_formats(source: SourceConfig, files: Sequence[RawFile]) -> list[str]:
    """Formats that an earlier source of these files could have had and be read as now."""
    if source.format != "auto":
        return [source.format]
    found = {file.format for file in files}
    return ["text", "code"] if found == {"code"} else ["text"] if found == {"text", "code"} else list(found)[: len(found) == 1]


def _units(source: int, files: list[RawFile]) -> Iterator[Unit]:
    for number, group in enumerate(grouped(files, UNIT_BYTES)):
        yield Unit(f"{source}-{number:05d}", source, group)
