"""Folders of finished runs, made without data, Ray or training."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from foundray.data.prepare.manifest import Manifest, Shard
from foundray.data.tokenizers.tokenizer import make_bytes
from foundray.runs.run import Run
from foundray.testing.specs import spec_in


def run_with_checkpoint(storage: Path, **changes: Any) -> Run:
    """A run of the small spec with `changes`, whose newest checkpoint, of step 3, holds the initial weights."""
    from foundray.testing.trainers import make_trainer, save_checkpoint

    spec = spec_in(storage, **changes)
    run, tokens, opener = Run.named(spec), make_bytes(), 0
    values = spec.unit_shape(1).classes == 0
    manifest = {"context": spec.model.context, "vocabulary": 0 if values else tokens.vocabulary, "document_id": opener}
    (run.folder / "spec.yaml").write_text(spec.to_yaml())
    (run.folder / "data.json").write_text(json.dumps({"manifest": manifest}))
    (run.folder / "tokenizer.json").write_text(tokens.to_json())
    trainer = make_trainer(spec, vocabulary=manifest["vocabulary"])
    save_checkpoint(run.checkpoints, trainer, 3, spec.fingerprint(), keep=3)
    return run


def run_with_records(
    storage: Path,
    events: Iterable[dict[str, Any]] = (),
    metrics: Iterable[dict[str, Any]] = (),
    source: str = "x",
    **changes: Any,
) -> Run:
    """A run of the small spec with `changes`, whose logs hold these events and steps (`event_at`, `step_records`)."""
    spec = spec_in(storage, data__sources=[{"path": source}], **changes)
    run = Run.named(spec)
    shard = Shard(
        file="shards/0-00000.parquet", source=0, inputs=[source], documents=7, rows=1000, tokens=32_000, text_bytes=40_000,
        bytes=1, sha256="", quarantined=2,
    )  # fmt: skip
    manifest = Manifest(
        name="small", recipe={}, recipe_sha256="0" * 64, context=32, vocabulary=257, document_id=0, tokenizer_sha256="",
        rows=1000, tokens=32_000, quarantined=2, rows_per_group=10, shards=[shard],
    )  # fmt: skip
    prepared = {"folder": str(storage / "prepared/0"), "manifest": manifest.model_dump()}
    (run.folder / "spec.yaml").write_text(spec.to_yaml())
    (run.folder / "data.json").write_text(json.dumps(prepared))
    for file, records in (("events.jsonl", events), ("metrics.jsonl", metrics)):
        if listed := list(records):
            run.append(file, listed)
    return run
