"""Data prepared without Ray."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from foundray.contract import Values
from foundray.data.prepare.limits import Limits
from foundray.data.prepare.manifest import Manifest, Prepared, rows_per_group
from foundray.data.prepare.recipe import prepared_folder, units_read
from foundray.data.prepare.shard import make_shard
from foundray.spec import Spec
from foundray.storage import sha256


def shard_of(spec: Spec, change: Any = None) -> Prepared:
    """The spec's prepared data; `change` is applied to the shard's table, as if it had been written that way."""
    folder, recipe, (unit,) = prepared_folder(spec)
    modality = spec.data.modality.build()
    assert isinstance(modality, Values)
    length = units_read(spec)
    shard = make_shard(folder.url, unit, spec.data.sources[0], modality, length, Limits(0, 0.0))
    if change:
        path = Path((folder / shard.file).path)
        pq.write_table(change(pq.read_table(path)), path, write_page_checksum=True)
        shard = shard.model_copy(update={"sha256": sha256(path.read_bytes()), "bytes": path.stat().st_size})
    manifest = Manifest(
        name="x", recipe=recipe, recipe_sha256="", context=length, vocabulary=0, document_id=-1, tokenizer_sha256="",
        rows=shard.rows, tokens=shard.tokens, quarantined=0, rows_per_group=rows_per_group(length, tokens=False),
        shards=[shard],
    )  # fmt: skip
    (folder / "manifest.json").write_text(manifest.model_dump_json())
    return Prepared(folder, manifest)
