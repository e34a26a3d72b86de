"""`prepare`: raw sources become tokenized, packed, checksummed shards, as one resumable Ray Data job.

The work is cut into units: groups of small files, or one large file. A unit becomes one Parquet shard; its record is
written last, so a killed job goes on with the units that have none. The cut depends on the files alone, never on the
machine, so the same input gives the same shards.
"""

from __future__ import annotations

import contextlib
import json
import logging
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict
from typing import Any, cast

import numpy as np

from foundray.contract import Values
from foundray.data import tokenizer as tokenizers
from foundray.data.files import RawFile, find_files, grouped
from foundray.data.manifest import Manifest, Prepared, Shard, rows_per_group
from foundray.data.shard import Unit, make_shard, too_many
from foundray.data.sources import Document, read_documents
from foundray.data.tokenizer import Tokenizer
from foundray.errors import FoundrayError, InputError
from foundray.spec import Source, Spec, differences, digest, flatten
from foundray.storage import Store, sha256

UNIT_BYTES = 64 * 2**20

Report = Callable[[str], None]


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


def prepare(spec: Spec, report: Report = lambda line: None) -> Prepared:
    """The spec's prepared data: found complete, gone on with, or made. Needs a connection to Ray unless complete.

    Raises InputError for sources that cannot be used and storage that cannot be written.
    """
    folder, recipe, units = prepared_folder(spec)
    if (folder / "manifest.json").exists():
        prepared = Prepared.open(folder)
        prepared.check_files()
        report(f"data: {_summary(prepared.manifest)}, prepared before in {folder}")
        return prepared
    _explain(spec, recipe, folder, report)
    modality = spec.data.modality.build()
    tokenizer = None if isinstance(modality, Values) else _ensure_tokenizer(spec, folder, units)
    shards = _run_units(spec, folder, units, tokenizer, report)
    for index, source in enumerate(spec.data.sources):
        if not any(shard.rows for shard in shards if shard.source == index):
            raise InputError(f"the source {source.path} is empty: {_why_empty(folder, shards, index)}")
    quarantine = b"".join((folder / f"quarantine/{unit.name}.jsonl").read_bytes() for unit in units)
    (folder / "quarantine.jsonl").write_bytes(quarantine)
    manifest = Manifest(
        name=spec.name,
        recipe=recipe,
        recipe_sha256=digest(recipe),
        context=units_read(spec),
        vocabulary=tokenizer.vocabulary if tokenizer else 0,
        document_id=tokenizer.document_id if tokenizer else -1,
        tokenizer_sha256=sha256(tokenizer.to_json().encode()) if tokenizer else "",
        rows=sum(shard.rows for shard in shards),
        tokens=sum(shard.tokens for shard in shards),
        quarantined=sum(shard.quarantined for shard in shards),
        rows_per_group=rows_per_group(units_read(spec), tokens=tokenizer is not None),
        shards=[shard for shard in shards if shard.rows],
    )
    (folder / "manifest.json").write_text(manifest.model_dump_json(indent=1))
    report(f"data: {_summary(manifest)}, prepared in {folder}")
    return Prepared(folder, manifest)


def _recipe(spec: Spec, files: list[list[RawFile]]) -> dict[str, Any]:
    """All that decides the shards' content. Weights and holdout decide the order alone, and licences nothing."""
    tokenizer = spec.data.tokenizer
    trained: dict[str, Any] = {"seed": spec.seed} if tokenizer.kind == "bpe" else {}
    if tokenizer.kind == "file":
        trained = {"sha256": sha256(tokenizers.load_file(tokenizer).to_json().encode())}
    modality = spec.data.modality
    cut = {"modality": modality.model_dump(mode="json")} if modality.kind != "text" else {}
    return {
        "context": units_read(spec),
        "tokenizer": tokenizer.model_dump(mode="json", exclude={"path"}) | trained,
        **cut,
        "sources": [
            source.model_dump(mode="json", exclude={"weight", "licence"})
            | {"files": {f.url: [f.size, f.modified_ns] for f in found}}
            for source, found in zip(spec.data.sources, files, strict=True)
        ],
    }


def _units(source: int, files: list[RawFile]) -> Iterator[Unit]:
    for number, group in enumerate(grouped(files, UNIT_BYTES)):
        yield Unit(f"{source}-{number:05d}", source, group)


def _explain(spec: Spec, recipe: dict[str, Any], folder: Store, report: Report) -> None:
    """Say what differs from the data prepared last under the same name, so that a new preparation is no surprise."""
    if (folder / "tokenizer.json").exists():
        report(f"data: going on with the preparation in {folder}")
        return
    others = [other for other in folder.parent.children() if (other / "manifest.json").exists()]
    mine = [manifest for other in others if (manifest := Prepared.open(other).manifest).name == spec.name]
    if mine:
        nearest = min((differences(flatten(m.recipe), flatten(recipe)) for m in mine), key=len)
        shown = "; ".join(nearest[:3]) + (f"; and {len(nearest) - 3} more" if len(nearest) > 3 else "")
        report(f"data: preparing anew, since {shown}")


def _ensure_tokenizer(spec: Spec, folder: Store, units: list[Unit]) -> Tokenizer:
    """The tokenizer of a job begun before, or a new one; kept beside the shards."""
    kept, opener = folder / "tokenizer.json", folder / "document_id"
    if kept.exists() and opener.exists():
        return Tokenizer.from_json(kept.read_text(), int(opener.read_text()))
    tokenizer = _make_tokenizer(spec, units)
    kept.write_text(tokenizer.to_json())
    opener.write_text(str(tokenizer.document_id))
    return tokenizer


def known_tokenizer(spec: Spec) -> Tokenizer | None:
    """The tokenizer of a spec that needs no data to make it. Raises InputError for a file that is none."""
    field = spec.data.tokenizer
    if (alphabet := spec.data.modality.build().alphabet) is not None:
        return tokenizers.make_char(alphabet)
    if field.kind == "bytes":
        return tokenizers.make_bytes()
    return tokenizers.load_file(field) if field.kind == "file" else None


def _make_tokenizer(spec: Spec, units: list[Unit]) -> Tokenizer:
    if (known := known_tokenizer(spec)) is not None:
        return known
    field = spec.data.tokenizer
    if field.kind == "char":
        parts = over_units(units, lambda unit: {"characters": _characters(unit, spec.data.sources[unit.source])})
        return tokenizers.make_char(set("".join(part["characters"] for part in parts)))
    import ray

    return Tokenizer.from_json(ray.get(ray.remote(_train_bpe).remote(spec, units)), 0)


def _characters(unit: Unit, source: Source) -> str:
    seen: set[str] = set()
    for file in unit.files:
        for row in read_documents(file, source):
            if isinstance(row, Document):
                seen.update(row.text)
    return "".join(sorted(seen))


def _train_bpe(spec: Spec, units: list[Unit]) -> str:
    field = spec.data.tokenizer
    return tokenizers.train_bpe(_sample(spec, units, field.sample_bytes), int(field.vocab_size or 0)).to_json()


def _sample(spec: Spec, units: list[Unit], budget: int) -> Iterator[str]:
    """Documents of units in seeded order, from each source by its weight, up to `budget` bytes."""
    total = sum(source.weight for source in spec.data.sources)
    for index, source in enumerate(spec.data.sources):
        mine = [unit for unit in units if unit.source == index]
        left = budget * source.weight / total
        for position in np.random.default_rng([spec.seed, index]).permutation(len(mine)):
            for file in mine[position].files:
                for row in read_documents(file, source):
                    if isinstance(row, Document) and left > 0:
                        yield row.text[: int(left)]
                        left -= len(row.text.encode())
                if left <= 0:
                    break


def _run_units(spec: Spec, folder: Store, units: list[Unit], tokenizer: Tokenizer | None, report: Report) -> list[Shard]:
    """Every unit's shard, in unit order; those of an earlier, killed job are taken as they are."""
    done = {unit.name: shard for unit in units if (shard := _finished(folder, unit)) is not None}
    todo = [unit for unit in units if unit.name not in done]
    limit, sources, length, modality = spec.data.max_bad_rows, spec.data.sources, units_read(spec), spec.data.modality
    text, opener = (tokenizer.to_json(), tokenizer.document_id) if tokenizer else ("", 0)

    def work(unit: Unit) -> dict[str, str]:
        cutter = Tokenizer.from_json(text, opener) if text else cast(Values, modality.build())
        made = make_shard(folder.url, unit, sources[unit.source], cutter, length, limit)
        return {"name": unit.name, "shard": made.model_dump_json()}

    bad = sum(shard.quarantined for shard in done.values())
    for row in over_units(todo, work):
        done[row["name"]] = shard = Shard.model_validate_json(row["shard"])
        bad += shard.quarantined
        report(f"data: {len(done)} of {len(units)} shards, {sum(s.tokens for s in done.values()):,} tokens")
        if bad > limit:
            raise InputError(too_many(limit, f"{folder / 'quarantine'} lists them"))
    return [done[unit.name] for unit in units]


def over_units(units: list[Unit], work: Callable[[Unit], dict[str, str]]) -> Iterable[dict[str, Any]]:
    """`work` on every unit, as a Ray Data pipeline; results come as they are ready.

    An input error inside a task comes back as a row: raised there, it would be retried and wrapped.
    """
    if not units:
        return
    import ray.data

    # Its progress bars and plans would interleave with what `report` says; errors still come through.
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    ray.data.DataContext.get_current().enable_progress_bars = False

    def guarded(row: dict[str, Any]) -> dict[str, Any]:
        unit = json.loads(row["unit"])
        try:
            return work(Unit(unit["name"], unit["source"], tuple(RawFile(**f) for f in unit["files"])))
        except FoundrayError as error:
            return {"error": str(error)}

    rows = ray.data.from_items(
        [{"unit": json.dumps(asdict(unit))} for unit in units], override_num_blocks=min(len(units), 1000)
    )
    for result in rows.map(guarded).iter_rows():
        if result.get("error"):
            raise InputError(result["error"])
        yield result


def _finished(folder: Store, unit: Unit) -> Shard | None:
    record = folder / f"units/{unit.name}.json"
    if not record.exists():
        return None
    shard = Shard.model_validate_json(record.read_bytes())
    return shard if not shard.rows or (folder / shard.file).info().size == shard.bytes else None


def _why_empty(folder: Store, shards: list[Shard], source: int) -> str:
    names = [shard.file.removeprefix("shards/").removesuffix(".parquet") for shard in shards if shard.source == source]
    for name in names:
        with contextlib.suppress(ValueError):
            first = json.loads((folder / f"quarantine/{name}.jsonl").read_text().partition("\n")[0])
            return f"no usable document ({first['source']}, {first['position']}: {first['reason']})"
    return "no document"


def _summary(manifest: Manifest) -> str:
    documents = sum(shard.documents for shard in manifest.shards)
    quarantined = f", {manifest.quarantined} rows quarantined" if manifest.quarantined else ""
    return f"{documents:,} documents, {manifest.tokens:,} tokens, {manifest.rows:,} samples{quarantined}"
