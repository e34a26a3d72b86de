"""Manifests of data that is not there, and the global order of their samples."""

from __future__ import annotations

from foundray.data.prepare.manifest import Manifest, Shard, rows_per_group
from foundray.data.stream.order import SampleOrder


def manifest(rows: list[list[int]], context: int = 1023) -> Manifest:
    """Manifest of sources, each a list of its shards' row counts; a row group has 256 rows."""
    shards = [
        Shard(
            file=f"shards/{source}-{number:05d}.parquet", source=source, inputs=[], documents=1, rows=n,
            tokens=n * context, text_bytes=n * context, bytes=1, sha256="", quarantined=0,
        )
        for source, sizes in enumerate(rows)
        for number, n in enumerate(sizes)
    ]  # fmt: skip
    return Manifest(
        name="x", recipe={}, recipe_sha256="", context=context, vocabulary=1, document_id=0, tokenizer_sha256="",
        rows_per_group=rows_per_group(context, tokens=True), rows=sum(map(sum, rows)), tokens=0, quarantined=0, shards=shards,
    )  # fmt: skip


def order(rows: list[list[int]], weights: list[float], seed: int = 7, holdout: float = 0.1) -> SampleOrder:
    """The order of such sources' samples."""
    return SampleOrder(manifest(rows), weights, holdout, seed)
