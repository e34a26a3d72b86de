"""`prepare`: raw sources become tokenized, packed, checksummed shards, as one resumable Ray Data job.

The work is divided into units: groups of small files, or one large file. A unit becomes one Parquet shard. Its record is
written last, so a killed job continues with the units that have none.
"""

from __future__ import annotations

import posixpath
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any, cast

from foundray.contract import Values
from foundray.data.prepare.limits import Limits
from foundray.data.prepare.manifest import Manifest, Prepared, Shard, rows_per_group
from foundray.data.prepare.pipeline import over_units
from foundray.data.prepare.quarantine import LIST, Balance, Tally, read_lines, summary
from foundray.data.prepare.recipe import changes, prepared_folder, units_read
from foundray.data.prepare.shard import Unit, make_shard
from foundray.data.prepare.vocabulary import ensure_tokenizer
from foundray.data.tokenizers.checks import Anatomy
from foundray.data.tokenizers.long_documents import Cutter, cutting
from foundray.data.tokenizers.tokenizer import Tokenizer
from foundray.errors import InputError
from foundray.spec import Spec, digest
from foundray.spec.arithmetic import of_data
from foundray.storage import Store, sha256
from foundray.wording.words import plural

Report = Callable[[str], None]

NOTES = 3
"""Kinds of notes that are reported, one line each."""
READERS = 16
"""Small files that are read at a time. Judgement: enough to hide most of an object store's latency."""


def prepare(spec: Spec, report: Report = lambda line: None) -> Prepared:
    """Find, resume or make the spec's prepared data. Needs a connection to Ray unless the data is complete.

    Raises InputError for unusable sources and storage that cannot be written.
    """
    folder, recipe, units = prepared_folder(spec, report)
    if (folder / "manifest.json").exists():
        prepared = Prepared.open(folder)
        prepared.check_files()
        _report_balance(prepared, "already prepared in", report)
        return prepared
    _report_changes(spec, recipe, folder, report)
    modality = spec.data.modality.build()
    tokenizer = None if isinstance(modality, Values) else ensure_tokenizer(spec, folder, units)
    if tokenizer and spec.data.tokenizer.kind == "file" and (remarks := Anatomy(tokenizer.engine).remarks()):
        report(f"data: {spec.data.tokenizer.path} does not keep all of the text: {'; '.join(remarks)}")
    # Make all shards; then join their quarantine lists and write the manifest, which marks the folder complete.
    shards = _run_units(spec, folder, units, tokenizer, report)
    if tokenizer and (line := cutting(Cutter(tokenizer), sum(shard.cut for shard in shards))):
        report(f"data: {line}")
    quarantine = b"".join((folder / f"quarantine/{unit.name}.jsonl").read_bytes() for unit in units)
    (folder / LIST).write_bytes(quarantine)
    manifest = Manifest(
        name=spec.name,
        recipe=recipe,
        recipe_sha256=digest(recipe),
        arithmetic=of_data(spec.arithmetic),
        context=units_read(spec),
        vocabulary=tokenizer.vocabulary if tokenizer else 0,
        document_id=tokenizer.document_id if tokenizer else -1,
        tokenizer_sha256=sha256(tokenizer.to_json().encode()) if tokenizer else "",
        rows=sum(shard.rows for shard in shards),
        tokens=sum(shard.tokens for shard in shards),
        quarantined=sum(shard.quarantined for shard in shards),
        rows_per_group=rows_per_group(units_read(spec), tokens=tokenizer is not None),
        shards=[shard for shard in shards if shard.rows],
        balances=[
            Balance.together(shard.balance for shard in shards if shard.source == index)
            for index in range(len(spec.data.sources))
        ],
    )
    (folder / "manifest.json").write_text(manifest.model_dump_json(indent=1))
    prepared = Prepared(folder, manifest)
    _report_balance(prepared, "prepared in", report)
    return prepared


def _report_changes(spec: Spec, recipe: dict[str, Any], folder: Store, report: Report) -> None:
    """Report what differs from data prepared under the same name, so that a new preparation is no surprise."""
    if (folder / "tokenizer.json").exists():
        report(f"data: resuming the preparation in {folder}")
        return
    others = [other for other in folder.parent.children() if (other / "manifest.json").exists()]
    same_name = [manifest for other in others if (manifest := Prepared.open(other).manifest).name == spec.name]
    if same_name:
        nearest = min((changes(m.recipe, recipe) for m in same_name), key=len)
        shown = "; ".join(nearest[:3]) + (f"; and {len(nearest) - 3} more" if len(nearest) > 3 else "")
        report(f"data: preparing again, because {shown}")


def _run_units(spec: Spec, folder: Store, units: list[Unit], tokenizer: Tokenizer | None, report: Report) -> list[Shard]:
    """Make every unit's shard, in unit order; finished shards of an earlier, killed job are kept."""
    done = _finished(folder, units)
    todo = [unit for unit in units if unit.name not in done]
    sources, length, modality = spec.data.sources, units_read(spec), spec.data.modality
    limits = Limits(spec.data.max_bad_rows, spec.data.max_bad_share)
    text, opener = (tokenizer.to_json(), tokenizer.document_id) if tokenizer else ("", 0)

    def work(unit: Unit) -> dict[str, str]:
        cutter = Tokenizer.from_json(text, opener) if text else cast(Values, modality.build())
        made = make_shard(folder.url, unit, sources[unit.source], cutter, length, limits)
        return {"name": unit.name, "shard": made.model_dump_json()}

    def check(sources_read: Iterable[int]) -> None:
        """Raises InputError if the shards so far exceed the limits, over all sources or in one of those read."""
        bad = sum(shard.quarantined for shard in done.values())
        if bad > limits.rows:
            worst = max(range(len(sources)), key=lambda index: sum(s.quarantined for s in done.values() if s.source == index))
            limits.check_rows(bad, f"data.sources.{worst}", _tally(folder, done, worst), sources[worst].path, folder.url)
        for index in sources_read:
            if all(unit.name in done for unit in units if unit.source == index):
                _check_source(limits, folder, done, index, sources[index].path)

    check(range(len(sources)))  # shards of an earlier job may exceed the limits
    for row in over_units(todo, work, "preparing"):
        done[row["name"]] = shard = Shard.model_validate_json(row["shard"])
        report(f"data: {len(done)} of {len(units)} shards, {sum(s.tokens for s in done.values()):,} tokens")
        check([shard.source])
    return [done[unit.name] for unit in units]


def _check_source(limits: Limits, folder: Store, done: Mapping[str, Shard], index: int, path: str) -> None:
    """Raises InputError if a source whose units are all done has nothing usable, or too much bad data."""
    shards = [shard for shard in done.values() if shard.source == index]
    balance = Balance.together(shard.balance for shard in shards)
    if not balance.documents or limits.exceeded(balance):
        limits.check_share(f"data.sources.{index}", _tally(folder, done, index), path, folder.url)
    if not any(shard.rows for shard in shards):
        raise InputError(f"data.sources.{index}: the documents of {path} are too short for one sample ({balance.documents:,})")


def _tally(folder: Store, done: Mapping[str, Shard], index: int) -> Tally:
    """Balance and reasons of a source, from the quarantine lists of its finished units."""
    tally = Tally()
    for name, shard in sorted(done.items()):
        if shard.source == index:
            for line in read_lines(folder / f"quarantine/{name}.jsonl"):
                tally.add_line(line)
            tally.balance.documents += shard.documents
            tally.balance.empty += shard.empty
    return tally


def _finished(folder: Store, units: list[Unit]) -> dict[str, Shard]:
    """By name, the shards of units that are finished, in unit order: their record is there, and the shard is whole."""
    # List both folders once, and read records concurrently: an object store takes some ten milliseconds for each.
    records, sizes = (folder / "units").files(), (folder / "shards").files()
    names = [unit.name for unit in units if f"{unit.name}.json" in records]
    with ThreadPoolExecutor(READERS) as pool:
        contents = pool.map(lambda name: (folder / f"units/{name}.json").read_bytes(), names)
        shards = [Shard.model_validate_json(content) for content in contents]
    whole = (not shard.rows or sizes.get(posixpath.basename(shard.file)) == shard.bytes for shard in shards)
    return {name: shard for name, shard, kept in zip(names, shards, whole, strict=True) if kept}


def _report_balance(prepared: Prepared, done: str, report: Report) -> None:
    """Report what was prepared, what was lost, and what was left out on purpose, such as columns of a table."""
    manifest, folder = prepared.manifest, prepared.folder
    balance = manifest.balance()
    counts = f"{plural(balance.documents, 'document')}, {manifest.tokens:,} tokens, {plural(manifest.rows, 'sample')}"
    report(f"data: {counts}{summary(balance, folder / LIST, folder)}, {done} {folder}")
    if not balance.notes or not (folder / LIST).exists():
        return
    tally = Tally()
    for line in read_lines(folder / LIST):
        if not line.lost:
            tally.add_line(line)
    notes = tally.reasons()
    for note in notes[:NOTES]:
        more = f" and {note.lines - 1:,} more" if note.lines > 1 else ""
        report(f"data: {note.reason} ({note.first}{more})")
    if rest := sum(note.lines for note in notes[NOTES:]):
        report(f"data: {plural(rest, 'other note')}: `foundray quarantine {folder}` shows them")
