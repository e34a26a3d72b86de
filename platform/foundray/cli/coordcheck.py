"""`coordcheck`: whether hyperparameters transfer over widths."""

from __future__ import annotations

import json
import sys
from typing import Any

import foundray
from foundray.cli.parsing import Verbs, overrides_of, say


def add_to(verbs: Verbs) -> None:
    added = verbs.add("coordcheck", _coordcheck, "check that hyperparameters transfer over widths", "SPEC", overrides="spec")
    added.add_argument(
        "--widths", type=int, nargs="+", default=[], metavar="N", help="(default: 1, 2, 4, 8 times the proxies')"
    )
    added.add_argument("--depths", type=int, nargs="+", default=[], metavar="N", help="check depths instead; gives no verdict")
    added.add_argument("--steps", type=int, default=5, help="(default: 5)")


def _coordcheck(options: Any) -> None:
    found = foundray.coordcheck(options.target, overrides_of(options), options.widths, options.depths, options.steps, say)
    print(found.table())
    if options.json:
        print(json.dumps(found.to_dict()))
    if found.over == "width" and not found.steady:
        sys.exit(1)
