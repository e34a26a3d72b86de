"""`evaluate`: judge how likely a run's model finds the right texts."""

from __future__ import annotations

import json
from typing import Any

import foundray
from foundray.cli.parsing import Verbs, add_step, say_reading


def add_to(verbs: Verbs) -> None:
    about = "judge a model of text by likelihood: multiple choice, answers, minimal pairs, whole texts"
    added = verbs.add("evaluate", _evaluate, about, "RUN", shows=True)
    added.add_argument("--task", required=True, metavar="FILE", help="JSON Lines: the items")
    added.add_argument("--delimiter", default="", help="what stands between a context and what follows it (default: nothing)")
    added.add_argument("--limit", type=int, help="use this many items (default: all)")
    add_step(added)


def _evaluate(options: Any) -> None:
    say_reading(options.target)
    result = foundray.evaluate(options.target, options.task, options.delimiter, options.limit, options.step)
    print(result.table())
    if options.json:
        print(json.dumps(result.to_dict()))
