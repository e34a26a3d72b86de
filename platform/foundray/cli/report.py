"""`report`: one HTML page about one run or several."""

from __future__ import annotations

import json
from typing import Any

import foundray
from foundray.cli.parsing import TAKES, Verbs, say_aside


def add_to(verbs: Verbs) -> None:
    added = verbs.add("report", _report, "write one HTML page of a run, of several side by side, or of a search", shows=True)
    added.add_argument("runs", nargs="+", metavar="RUN", help=TAKES["RUN"])
    added.add_argument("--out", metavar="FILE", help="(default: report.html, in the folder of the one run, or here)")


def _report(options: Any) -> None:
    from foundray.wording.sentences import plain

    place = plain(foundray.report(options.runs, options.out, say_aside))
    print(place)
    if options.json:
        print(json.dumps({"report": place}))
