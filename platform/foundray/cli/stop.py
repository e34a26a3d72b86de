"""`stop`: end a run at its next step boundary."""

from __future__ import annotations

import json
import sys
from typing import Any

import foundray
from foundray.cli.on_cluster import add_cluster, client_at
from foundray.cli.parsing import Verbs, say


def add_to(verbs: Verbs) -> None:
    add_cluster(verbs.add("stop", _stop, "stop a run at its next step boundary, with a checkpoint", "RUN"))


def _stop(options: Any) -> None:
    if options.cluster is not None:
        from foundray.jobs import asking

        facts_there, shown = asking.stop(client_at(options.cluster), options.target, say)
        print("\n".join(shown[:3]))
        if options.json:
            print(json.dumps(facts_there))
        if facts_there.get("state", "stopped") not in ("stopped", "finished", "not begun"):
            sys.exit(1)
        return
    facts = foundray.stop(options.target, say)
    print(f"{facts.run}: {facts.state}, step {facts.step:,}")
    if options.json:
        print(facts.to_json())
