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
    from foundray.runs.run import Run
    from foundray.spec.loading import load_spec
    from foundray.training.evaluating.tasks.kept import check_tasks
    from foundray.training.validation_sets import check_sets

    spec = load_spec(options.target, overrides_of(options))
    facts = derived(spec)
    if not Run.named(spec).exists():  # which has copies
        check_tasks(spec)
        check_sets(spec)
    print(spec.to_yaml())
    for name, value in facts.items():
        print(f"# {name}: {value}")
    if options.json:
        print(json.dumps({"spec": spec.model_dump(mode="json"), "derived": facts}))
