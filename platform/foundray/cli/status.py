"""`status`: where a run stands."""

from __future__ import annotations

import json
from typing import Any

import foundray
from foundray.cli.on_cluster import add_cluster, client_at
from foundray.cli.parsing import Verbs


def add_to(verbs: Verbs) -> None:
    added = verbs.add("status", _status, "show where a run stands", "RUN", shows=True)
    added.add_argument("--text", action="store_true", help="print the text besides the JSON")
    add_cluster(added)


def _status(options: Any) -> None:
    if options.cluster is not None:
        from foundray.jobs import asking

        facts, shown = asking.status(client_at(options.cluster), options.target)
        print("\n".join(shown))
        if options.json:
            print(json.dumps(facts))
        return
    from foundray.runs.run import Run
    from foundray.runs.status import standing

    if options.text or not options.json:
        print(standing(Run.open(options.target)))
    if options.json:
        print(foundray.status(options.target).to_json())
