"""`search`: the rows nearest to a query."""

from __future__ import annotations

import json
from typing import Any

import foundray
from foundray.cli.parsing import Verbs


def add_to(verbs: Verbs) -> None:
    added = verbs.add("search", _search, "find the rows of a folder of vectors that are nearest to a query", shows=True)
    added.add_argument("out", metavar="OUT", help="a folder that `foundray embed` made")
    added.add_argument("query", metavar="QUERY", nargs="?", help="a text; for other data, a file, whose first row counts")
    added.add_argument("--like", metavar="ID", help="instead of a query: the id of a row in OUT")
    added.add_argument("--top", type=int, default=10, help="rows to show (default: 10)")
    added.add_argument("--run", metavar="RUN", help="the run that made them, if it has moved")


def _search(options: Any) -> None:
    hits = foundray.search(options.out, options.query, like=options.like, top=options.top, run=options.run)
    for rank, hit in enumerate(hits, 1):
        print(f"{rank:3}  {hit.score:9.4f}  {hit.id}  ({hit.position})")
        if hit.text is not None:
            print(f"{'':16}{_short(hit.text)}")
    if options.json:
        print(json.dumps([hit.to_dict() for hit in hits]))


def _short(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= 100 else line[:99] + "…"
