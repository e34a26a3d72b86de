"""The tokenizer of a spec: known beforehand, or made once from the data, and stored beside the shards."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from foundray.data.prepare.pipeline import in_task, over_units
from foundray.data.prepare.shard import Unit
from foundray.data.prepare.sources import Document, read_documents
from foundray.data.tokenizers import tokenizer as tokenizers
from foundray.data.tokenizers.file import load_file
from foundray.data.tokenizers.tokenizer import Tokenizer
from foundray.data.tokenizers.training_sample import LongDocuments, sample
from foundray.spec import SourceConfig, Spec
from foundray.storage import Store


def ensure_tokenizer(spec: Spec, folder: Store, units: list[Unit]) -> Tokenizer:
    """Load the tokenizer of an earlier, unfinished job, or make a new one and store it beside the shards."""
    stored, opener = folder / "tokenizer.json", folder / "document_id"
    if stored.exists() and opener.exists():
        return Tokenizer.from_json(stored.read_text(), int(opener.read_text()))
    tokenizer = _make_tokenizer(spec, units)
    stored.write_text(tokenizer.to_json())
    opener.write_text(str(tokenizer.document_id))
    return tokenizer


def known_tokenizer(spec: Spec) -> Tokenizer | None:
    """Tokenizer of a spec that needs no data to make it; None otherwise. Raises InputError for an invalid tokenizer file."""
    field = spec.data.tokenizer
    if (alphabet := spec.data.modality.build().alphabet) is not None:
        return tokenizers.make_char(alphabet)
    if field.kind == "bytes":
        return tokenizers.make_bytes()
    return load_file(field) if field.kind == "file" else None


def _make_tokenizer(spec: Spec, units: list[Unit]) -> Tokenizer:
    if (known := known_tokenizer(spec)) is not None:
        return known
    field = spec.data.tokenizer
    if field.kind == "char":
        parts = over_units(units, lambda unit: {"characters": _characters(unit, spec.data.sources[unit.source])})
        return tokenizers.make_char(set("".join(part["characters"] for part in parts)))
    return Tokenizer.from_json(in_task("training the tokenizer", _train_bpe, spec, units), 0)


def _characters(unit: Unit, source: SourceConfig) -> str:
    seen: set[str] = set()
    for file in unit.files:
        for row in read_documents(file, source):
            if isinstance(row, Document):
                for part in row.parts():
                    seen.update(part)
    return "".join(sorted(seen))


def _train_bpe(spec: Spec, units: list[Unit]) -> str:
    field = spec.data.tokenizer
    return tokenizers.train_bpe(_sample(spec, units, field.sample_bytes), int(field.vocab_size or 0)).to_json()


def _sample(spec: Spec, units: list[Unit], budget: int) -> Iterator[str]:
    """Yield documents of the units in seeded order, from each source in proportion to its weight, up to `budget` bytes."""
    total = sum(source.weight for source in spec.data.sources)
    long_documents = LongDocuments(tokenizers.untrained())
    for index, source in enumerate(spec.data.sources):
        of_source = [unit for unit in units if unit.source == index]
        order = np.random.default_rng([spec.seed, index]).permutation(len(of_source))
        files = (file for position in order for file in of_source[position].files)
        rows = (row for file in files for row in read_documents(file, source))
        documents = (row for row in rows if isinstance(row, Document))
        yield from sample(documents, budget * source.weight / total, long_documents)
