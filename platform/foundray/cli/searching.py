"""Verbs of searching small: hyperparameters on proxies, whether they transfer, and forecasts."""

from __future__ import annotations

import json
import sys
from typing import Any

import foundray
from foundray.cli.parsing import Verbs, overrides_of, say
from foundray.errors import InputError


def add_to(verbs: Verbs) -> None:
    about = "search hyperparameters on small proxies, and write the run's spec with them"
    after = "; the same `foundray tune` goes on with the trials that there are"
    verbs.add("tune", _tune, about, "SPEC", overrides="spec", after_interrupt=after)
    added = verbs.add("coordcheck", _coordcheck, "check that hyperparameters transfer over widths", "SPEC", overrides="spec")
    added.add_argument(
        "--widths", type=int, nargs="+", default=[], metavar="N", help="(default: 1, 2, 4, 8 times the proxies')"
    )
    added.add_argument("--depths", type=int, nargs="+", default=[], metavar="N", help="over depths instead; gives no verdict")
    added.add_argument("--steps", type=int, default=5, help="(default: 5)")
    about = "find the best learning rate at several widths, with and without CompleteP"
    added = verbs.add("transfer", _transfer, about, "SPEC", overrides="spec")
    added.add_argument("--widths", type=int, nargs="+", required=True, metavar="N", help="the narrowest is the base")
    added.add_argument(
        "--rates", type=float, nargs="+", required=True, metavar="X", help="learning rates, such as 4e-3 8e-3 16e-3"
    )
    added.add_argument("--seeds", type=int, default=3, help="(default: 3)")
    added.add_argument("--steps", type=int, default=200, help="of each run (default: 200)")
    added = verbs.add("forecast", _forecast, "tell a run's loss from a ladder of smaller ones", overrides="spec")
    added.add_argument("runs", nargs="*", metavar="RUN", help="finished runs, or the folder of a search")
    added.add_argument("--points", metavar="FILE", help="a CSV with the columns N, D and loss, in place of runs")
    added.add_argument("--for", dest="target", metavar="SPEC", help="the run to be told of (default: that of the search)")
    added.add_argument("--parameters", type=float, metavar="N", help="of the run to be told of, in place of --for")
    added.add_argument("--tokens", type=float, metavar="D", help="of the run to be told of, in place of --for")


def _tune(options: Any) -> None:
    tuned = foundray.tune(options.target, overrides_of(options), say, show_progress=True)
    print(tuned.table())
    if options.json:
        print(json.dumps(tuned.to_dict()))


def _coordcheck(options: Any) -> None:
    found = foundray.coordcheck(options.target, overrides_of(options), options.widths, options.depths, options.steps, say)
    print(found.table())
    if options.json:
        print(json.dumps(found.to_dict()))
    if found.over == "width" and not found.steady:
        sys.exit(1)


def _transfer(options: Any) -> None:
    found = foundray.transfer(
        options.target, options.widths, options.rates, overrides_of(options), options.seeds, options.steps, say
    )
    print(found.table())
    if options.json:
        print(json.dumps(found.to_dict()))


def _forecast(options: Any) -> None:
    if (options.parameters is None) != (options.tokens is None):
        raise InputError("--parameters and --tokens go together")
    size = None if options.parameters is None else (options.parameters, options.tokens)
    found = foundray.forecast(options.runs, options.points, options.target, size, overrides_of(options), say)
    print(found.table())
    if options.json:
        print(json.dumps(found.to_dict()))
