"""`probe`: judge what a run has learned."""

from __future__ import annotations

import json
from typing import Any

import foundray
from foundray.cli.parsing import Verbs, overrides_of


def add_to(verbs: Verbs) -> None:
    about = "judge what a run has learned, beside a floor and the same network untrained"
    added = verbs.add("probe", _probe, about, "RUN", overrides="task", shows=True)
    added.add_argument("--task", required=True, metavar="FILE", help="a YAML file: the task")


def _probe(options: Any) -> None:
    judgement = foundray.probe(options.target, options.task, overrides_of(options))
    print(judgement.table())
    if options.json:
        print(json.dumps(judgement.to_dict()))
