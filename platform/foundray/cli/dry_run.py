"""`--dry-run`: what `prepare` and `train` would do."""

from __future__ import annotations

import json
from typing import Any

from foundray.cli.parsing import overrides_of


def add_dry_run(parser: Any) -> None:
    parser.add_argument("--dry-run", action="store_true", help="print the resolved spec and what follows from it, and stop")


def dry_run(options: Any) -> None:
    """Print the resolved spec and the facts derived from it."""
    from foundray.inspection.describe import derived
    from foundray.spec.loading import load_spec

    spec = load_spec(options.target, overrides_of(options))
    facts = derived(spec)
    print(spec.to_yaml())
    for name, value in facts.items():
        print(f"# {name}: {value}")
    if options.json:
        print(json.dumps({"spec": spec.model_dump(mode="json"), "derived": facts}))
