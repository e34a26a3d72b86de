"""`samples`: the samples that a step was trained on."""

from __future__ import annotations

import json
from typing import Any

import foundray
from foundray.cli.parsing import Verbs, say


def add_to(verbs: Verbs) -> None:
    added = verbs.add("samples", _samples, "list the samples that a step was trained on", "RUN", shows=True)
    added.add_argument("--step", type=int, required=True, help="the step, counted from 1")


def _samples(options: Any) -> None:
    names = foundray.samples(options.target, options.step, say)
    if options.json:
        print(json.dumps({"step": options.step, "samples": names}))
    else:
        print("\n".join(names))
