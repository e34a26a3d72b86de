"""`tune`: a hyperparameter search on small proxies."""

from __future__ import annotations

import json
from typing import Any

import foundray
from foundray.cli.parsing import Verbs, overrides_of, say


def add_to(verbs: Verbs) -> None:
    about = "search hyperparameters on small proxies, and write the run's spec with them"
    after = "; the same `foundray tune` continues with the trials so far"
    verbs.add("tune", _tune, about, "SPEC", overrides="spec", after_interrupt=after)


def _tune(options: Any) -> None:
    tuned = foundray.tune(options.target, overrides_of(options), say, show_progress=True)
    print(tuned.table())
    if options.json:
        print(json.dumps(tuned.to_dict()))
