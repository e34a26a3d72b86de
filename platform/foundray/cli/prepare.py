"""`prepare`: a spec's raw sources become prepared shards."""

from __future__ import annotations

import json
from typing import Any

import foundray
from foundray.cli.dry_run import add_dry_run, dry_run
from foundray.cli.parsing import Verbs, overrides_of, say


def add_to(verbs: Verbs) -> None:
    about = "turn the raw sources of a spec into prepared shards"
    after = "; the same `foundray prepare` continues"
    add_dry_run(verbs.add("prepare", _prepare, about, "SPEC", overrides="spec", after_interrupt=after))


def _prepare(options: Any) -> None:
    if options.dry_run:
        return dry_run(options)
    prepared = foundray.prepare(options.target, overrides_of(options), say)
    manifest = prepared.manifest
    if options.json:
        facts = manifest.model_dump(include={"rows", "tokens", "quarantined", "vocabulary", "recipe_sha256"})
        counts = manifest.balance().model_dump()
        print(json.dumps({"folder": prepared.folder.url, **facts, **counts, "shards": len(manifest.shards)}))
