"""`forecast`: a run's loss, from a ladder of smaller runs."""

from __future__ import annotations

import json
from typing import Any

import foundray
from foundray.cli.parsing import Verbs, overrides_of, say
from foundray.errors import InputError


def add_to(verbs: Verbs) -> None:
    added = verbs.add("forecast", _forecast, "predict a run's loss from a ladder of smaller ones", overrides="spec", shows=True)
    added.add_argument("runs", nargs="*", metavar="RUN", help="finished runs, or the folder of a search")
    added.add_argument("--points", metavar="FILE", help="a CSV with the columns N, D and loss, instead of runs")
    added.add_argument("--for", dest="target", metavar="SPEC", help="the run to forecast (default: the search's)")
    added.add_argument("--parameters", type=float, metavar="N", help="parameters of the run to forecast, instead of --for")
    added.add_argument("--tokens", type=float, metavar="D", help="tokens of the run to forecast, instead of --for")


def _forecast(options: Any) -> None:
    if (options.parameters is None) != (options.tokens is None):
        raise InputError("--parameters and --tokens go together")
    size = None if options.parameters is None else (options.parameters, options.tokens)
    found = foundray.forecast(options.runs, options.points, options.target, size, overrides_of(options), say)
    print(found.table())
    if options.json:
        print(json.dumps(found.to_dict()))
