"""The survey of the data: every raw file, or a seeded sample, read once; stored, so that a second plan reads nothing."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable
from typing import Any, cast

import numpy as np
from pydantic import BaseModel, ValidationError

from foundray.contract import Values
from foundray.data.files.files import RawFile
from foundray.data.prepare.limits import nothing_in
from foundray.data.prepare.manifest import Manifest, Prepared
from foundray.data.prepare.pipeline import over_units
from foundray.data.prepare.quarantine import Tally
from foundray.data.prepare.recipe import prepared_folder, units_read
from foundray.data.prepare.shard import Unit
from foundray.data.prepare.vocabulary import known_tokenizer
from foundray.data.tokenizers.tokenizer import Tokenizer, train_bpe
from foundray.errors import InputError
from foundray.planning.reading import Counts, Part, read_text_unit, read_values_unit
from foundray.planning.seen import Repeats, Seen
from foundray.spec import Spec, digest
from foundray.storage import Store

SAMPLE_BYTES = 8 * 2**20
"""Characters of text kept, from all sources together."""
LEAST_SAMPLE = 4096
"""Least characters kept of a unit, however small its part of the data."""
MADE = 2
"""Version of the stored survey; counts up when its meaning changes."""
UNSPACED = 0.3
"""Fraction of unspaced characters above which words between spaces say little: judgement."""


class SourceSurvey(BaseModel):
    """Contents of a source; of a sample of its files, extrapolated by bytes."""

    path: str
    weight: float = 1.0
    files: int
    files_read: int
    raw_bytes: int
    counts: Counts
    tokens_from: str
    """`counted`, `sample` (tokens per byte of a sample, by a tokenizer trained on it) or `prepared`."""
    documents: Repeats
    """Copies among the documents (of values: samples), with white space taken as one space."""
    lines: Repeats
    """Copies among the lines of 32 bytes and more."""
    bad: str
    """Position of the first bad row, and the reason."""
    pieces: list[str] = []
    """A sample of its text, in the order of the source."""


class Survey(BaseModel):
    """Contents of all sources."""

    kind: str
    """The modality."""
    of_text: bool
    """Whether it is text that a tokenizer cuts, rather than letters of an alphabet or values."""
    sources: list[SourceSurvey]
    documents: Repeats
    lines: Repeats
    vocabulary: int
    """Ids of the spec's tokenizer, 0 for values."""
    sampled: bool
    """Whether some files were not read."""
    prepared: str = ""
    """The folder of prepared data that gave the number of tokens."""
    kept: str = ""
    """The file that stores this survey for the next plan."""

    @property
    def counts(self) -> Counts:
        return Counts.together([source.counts for source in self.sources])

    @property
    def unit(self) -> str:
        return "tokens" if self.vocabulary else "units"

    @property
    def spaced(self) -> bool:
        """Whether spaces separate most words."""
        return self.counts.unspaced < UNSPACED * max(1.0, self.counts.characters)

    def to_dict(self) -> dict[str, Any]:
        """The survey without the text."""
        return {
            **self.model_dump(exclude={"sources": {"__all__": {"pieces"}}}),
            "counts": self.counts.model_dump(),
        }


def survey(spec: Spec, sample_bytes: int | None = None, report: Callable[[str], None] = lambda line: None) -> Survey:
    """Survey the spec's data, or a seeded sample of its files with about `sample_bytes` raw bytes.

    Raises InputError for missing sources, and if nothing in them can be used.
    """
    folder, recipe, units = prepared_folder(spec, report)
    modality = spec.data.modality.build()
    if not isinstance(modality, Values):
        recipe = {**recipe, "context": None}
    # A survey is stored under the hash of everything that decides it.
    name = digest({"recipe": recipe, "sample": sample_bytes, "seed": spec.seed, "made": MADE})
    place = Store.at(spec.storage) / f"surveys/{name[:16]}.json"
    manifest = Prepared.open(folder).manifest if (folder / "manifest.json").exists() else None
    found = _kept(place)
    if found is None:
        found = _survey(spec, units, sample_bytes, report)
        with contextlib.suppress(InputError):  # if it cannot be written, the next plan reads again
            place.write_text(found.model_dump_json())
            found.kept = place.url
    else:
        report(f"the data was read before: {place} has the result")
        found.kept = place.url
    weights = [source.weight for source in spec.data.sources]
    found.sources = [
        source.model_copy(update={"weight": weight}) for source, weight in zip(found.sources, weights, strict=True)
    ]
    return found if manifest is None else _as_prepared(found, manifest, folder.url)


def _kept(place: Store) -> Survey | None:
    try:
        return Survey.model_validate_json(place.read_bytes()) if place.exists() else None
    except (InputError, ValidationError):
        return None


def _survey(spec: Spec, units: list[Unit], sample_bytes: int | None, report: Callable[[str], None]) -> Survey:
    modality = spec.data.modality.build()
    tokenizer = None if isinstance(modality, Values) else known_tokenizer(spec)
    chosen = [unit for unit in (_thinned(units, spec, sample_bytes)) if unit.files]
    size, whole = _size(chosen), _size(units)
    report(f"reading {size / 1e6:,.1f} of {whole / 1e6:,.1f} MB" if size < whole else f"reading {size / 1e6:,.1f} MB")
    parts = _read(spec, chosen, tokenizer, report)
    sources = [_source(spec, index, units, chosen, parts) for index in range(len(spec.data.sources))]
    of_text = not isinstance(modality, Values) and modality.alphabet is None
    letters = set("".join(part.letters for part in parts))
    vocabulary = tokenizer.vocabulary if tokenizer else len(letters) + 2 if of_text else 0
    if of_text and tokenizer is None and spec.data.tokenizer.kind == "bpe":
        vocabulary = _count_by_sample(spec, sources)
    return Survey(
        kind=spec.data.modality.kind,
        of_text=of_text,
        sources=sources,
        documents=Seen.together(Seen.from_text(part.documents) for part in parts).repeats(),
        lines=Seen.together(Seen.from_text(part.lines) for part in parts).repeats(),
        vocabulary=vocabulary,
        sampled=size < whole,
    )


def _size(units: list[Unit]) -> int:
    return sum(file.size for unit in units for file in unit.files)


def _thinned(units: list[Unit], spec: Spec, sample_bytes: int | None) -> list[Unit]:
    """The units, with files in seeded order up to each source's part of the sample: at least one file per source."""
    if sample_bytes is None or sample_bytes >= _size(units):
        return units
    taken = set[str]()
    share = sample_bytes / max(1, _size(units))
    for index in range(len(spec.data.sources)):
        files = [file for unit in units if unit.source == index for file in unit.files]
        left = share * sum(file.size for file in files)
        for at in np.random.default_rng([spec.seed, index]).permutation(len(files)):
            if left <= 0:
                break
            taken.add(files[at].url)
            left -= files[at].size
    return [Unit(unit.name, unit.source, tuple(file for file in unit.files if file.url in taken)) for unit in units]


def _read(spec: Spec, units: list[Unit], tokenizer: Tokenizer | None, report: Callable[[str], None]) -> list[Part]:
    """Read every unit, in unit order: a single unit in this process, several as a Ray Data pipeline."""
    sources, seed, modality, length = spec.data.sources, spec.seed, spec.data.modality, units_read(spec)
    of_values, whole = isinstance(modality.build(), Values), max(1, _size(units))
    text, opener = (tokenizer.to_json(), tokenizer.document_id) if tokenizer else ("", 0)

    def work(unit: Unit) -> dict[str, str]:
        source = sources[unit.source]
        if of_values:
            part = read_values_unit(unit, source, cast(Values, modality.build()), length)
        else:
            most = max(LEAST_SAMPLE, SAMPLE_BYTES * sum(file.size for file in unit.files) // whole)
            part = read_text_unit(unit, source, Tokenizer.from_json(text, opener) if text else None, seed, most)
        return {"name": unit.name, "part": part.model_dump_json()}

    if len(units) == 1 and not os.environ.get("RAY_ADDRESS"):
        return [Part.model_validate_json(work(units[0])["part"])]
    from foundray.cluster.connect import connected
    from foundray.preflight.admission import admit

    found: dict[str, Part] = {}
    with connected(report) as ray:
        admit(ray, spec, report)
        for row in over_units(units, work):
            found[row["name"]] = Part.model_validate_json(row["part"])
            if len(units) > 1:
                report(f"read {len(found)} of {len(units)} units")
    return [found[unit.name] for unit in units]


def _source(spec: Spec, index: int, units: list[Unit], chosen: list[Unit], parts: list[Part]) -> SourceSurvey:
    source = spec.data.sources[index]
    every, read = (_files(some, index) for some in (units, chosen))
    mine = [part for part in parts if part.source == index]
    whole, size = sum(file.size for file in every), sum(file.size for file in read)
    counts, bad = Counts.together([part.counts for part in mine]), next((part.bad for part in mine if part.bad), "")
    if not counts.documents:
        tally, name = Tally(), f"data.sources.{index}"
        for part in mine:
            tally.add_found(part.found)
        raise InputError(nothing_in(name, tally, source.path, f"fix {name} or the data"))
    kind = spec.data.tokenizer.kind
    if not counts.tokens and kind == "char":
        counts.tokens = counts.characters + counts.documents
    return SourceSurvey(
        path=source.path,
        files=len(every),
        files_read=len(read),
        raw_bytes=whole,
        counts=counts.times(whole / size) if size else counts,
        tokens_from="counted" if counts.tokens else "sample",
        documents=Seen.together(Seen.from_text(part.documents) for part in mine).repeats(),
        lines=Seen.together(Seen.from_text(part.lines) for part in mine).repeats(),
        bad=bad,
        pieces=[piece for part in mine for piece in part.pieces],
    )


def _files(units: list[Unit], source: int) -> list[RawFile]:
    return [file for unit in units if unit.source == source for file in unit.files]


def _count_by_sample(spec: Spec, sources: list[SourceSurvey]) -> int:
    """Fill in tokens by a byte-pair tokenizer as `prepare` trains it, but on the sample. Return its vocabulary."""
    tokenizer = train_bpe((piece for source in sources for piece in source.pieces), int(spec.data.tokenizer.vocab_size or 0))
    for source in sources:
        tokens = sum(len(ids) for ids in tokenizer.encode(source.pieces))
        size = sum(len(piece.encode()) for piece in source.pieces)
        source.counts.tokens = source.counts.documents + source.counts.bytes * tokens / max(1, size)
    return tokenizer.vocabulary


def _as_prepared(found: Survey, manifest: Manifest, folder: str) -> Survey:
    """The survey with the exact tokens, documents and bytes of the prepared data."""
    for index, source in enumerate(found.sources):
        shards = manifest.of_source(index)
        source.counts.tokens = sum(shard.tokens for shard in shards)
        source.counts.documents = sum(shard.documents for shard in shards)
        if found.vocabulary:
            source.counts.bytes = sum(shard.text_bytes for shard in shards)
        source.tokens_from = "prepared"
    found.prepared, found.vocabulary = folder, manifest.vocabulary
    return found
