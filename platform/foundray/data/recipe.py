"""What decides prepared data: its recipe, whose hash names the folder, and the units that its raw files are cut into.

The cut depends on the files alone, never on the machine, so the same input gives the same shards.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from foundray.contract import Values
from foundray.data.files import RawFile, find_files, grouped
from foundray.data.shard import Unit
from foundray.data.tokenizer_file import load_file
from foundray.errors import InputError
from foundray.spec import Spec, digest
from foundray.spec.arithmetic import of_data, raised
from foundray.storage import Store, sha256

UNIT_BYTES = 64 * 2**20


def units_read(spec: Spec) -> int:
    """Units of data in a sample, of which the objective makes at most `model.context`. Raises InputError."""
    read = spec.objective.build().reads(spec.model.context)
    if read < 2:
        raise InputError(f"model.context of {spec.model.context} is too short for {spec.objective.kind}")
    return read


def prepared_folder(spec: Spec) -> tuple[Store, dict[str, Any], list[Unit]]:
    """Where the spec's prepared data belongs, the recipe that names it, and its units. Raises InputError."""
    modality = spec.data.modality.build()
    endings = modality.endings if isinstance(modality, Values) else ()
    files = [find_files(source, endings) for source in spec.data.sources]
    recipe = _recipe(spec, files)
    units = [unit for index, found in enumerate(files) for unit in _units(index, found)]
    return Store.at(spec.storage) / "prepared" / digest(recipe)[:16], recipe, units


def _recipe(spec: Spec, files: list[list[RawFile]]) -> dict[str, Any]:
    """All that decides the shards' content. Weights and holdout decide the order alone, and licences nothing."""
    tokenizer = spec.data.tokenizer
    trained: dict[str, Any] = {"seed": spec.seed} if tokenizer.kind == "bpe" else {}
    if tokenizer.kind == "file":
        trained = {"sha256": sha256(load_file(tokenizer).to_json().encode())}
    modality, numbers = spec.data.modality, raised(of_data(spec.arithmetic))
    cut = {"modality": modality.model_dump(mode="json")} if modality.kind != "text" else {}
    return {
        "context": units_read(spec),
        "tokenizer": tokenizer.model_dump(mode="json", exclude={"path"}) | trained,
        **cut,
        **({"arithmetic": numbers} if numbers else {}),
        "sources": [
            source.model_dump(mode="json", exclude={"weight", "licence"})
            | {"files": {f.url: [f.size, f.modified_ns] for f in found}}
            for source, found in zip(spec.data.sources, files, strict=True)
        ],
    }


def _units(source: int, files: list[RawFile]) -> Iterator[Unit]:
    for number, group in enumerate(grouped(files, UNIT_BYTES)):
        yield Unit(f"{source}-{number:05d}", source, group)
