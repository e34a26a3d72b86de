"""`train`: a spec runs to its end."""

from __future__ import annotations

from typing import Any

import foundray
from foundray.cli.dry_run import add_dry_run, dry_run
from foundray.cli.parsing import Verbs, overrides_of, say
from foundray.cli.result import print_result


def add_to(verbs: Verbs) -> None:
    about = "run a spec to its end (preparing its data first, continuing where it stopped)"
    after = "; the same `foundray train` continues"
    add_dry_run(verbs.add("train", _train, about, "SPEC", overrides="spec", after_interrupt=after))


def _train(options: Any) -> None:
    if options.dry_run:
        return dry_run(options)
    print_result(foundray.train(options.target, overrides_of(options), say, show_progress=True), options.json)
