"""`transfer`: the best learning rate at several widths."""

from __future__ import annotations

import json
from typing import Any

import foundray
from foundray.cli.parsing import Verbs, overrides_of, say


def add_to(verbs: Verbs) -> None:
    about = "find the best learning rate at several widths, with and without CompleteP"
    added = verbs.add("transfer", _transfer, about, "SPEC", overrides="spec")
    added.add_argument("--widths", type=int, nargs="+", required=True, metavar="N", help="the narrowest is the base")
    added.add_argument(
        "--rates", type=float, nargs="+", required=True, metavar="X", help="learning rates, such as 4e-3 8e-3 16e-3"
    )
    added.add_argument("--seeds", type=int, default=3, help="(default: 3)")
    added.add_argument("--steps", type=int, default=200, help="of each run (default: 200)")


def _transfer(options: Any) -> None:
    found = foundray.transfer(
        options.target, options.widths, options.rates, overrides_of(options), options.seeds, options.steps, say
    )
    print(found.table())
    if options.json:
        print(json.dumps(found.to_dict()))
