"""`quarantine`: which raw data could not be used, and why."""

from __future__ import annotations

import json
from typing import Any

import foundray
from foundray.cli.parsing import Verbs, overrides_of


def add_to(verbs: Verbs) -> None:
    about = "show which raw data could not be used, and why"
    added = verbs.add("quarantine", _quarantine, about, "WHAT", overrides="spec", shows=True)
    added.add_argument("--limit", type=int, default=20, metavar="N", help="lines to show (default: 20)")
    added.add_argument("--source", type=int, metavar="I", help="only of this source, counted from 0")


def _quarantine(options: Any) -> None:
    if options.limit < 0:
        raise foundray.InputError(f"--limit {options.limit}: it must be 0 or more")
    found = foundray.quarantine(options.target, overrides_of(options), options.source)
    print(found.table(options.limit))
    if options.json:
        print(json.dumps(found.to_dict(options.limit)))
