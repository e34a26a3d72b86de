"""`runs`: the runs of a storage folder."""

from __future__ import annotations

import json
from typing import Any

import foundray
from foundray.cli.parsing import Verbs


def add_to(verbs: Verbs) -> None:
    added = verbs.add("runs", _runs, "list a storage folder's runs: state, step, loss, age, size", shows=True)
    added.add_argument("target", metavar="STORAGE", nargs="?", default="runs", help="the folder of runs (default: runs)")


def _runs(options: Any) -> None:
    from foundray.runs.listing import table, total

    found = foundray.list_runs(options.target)
    print("\n".join([table(found), total(found)] if found else [f"no run is in {options.target}"]))
    if options.json:
        print(json.dumps([one.to_dict() for one in found]))
