"""Verbs of vectors: made of data by a run, and searched."""

from __future__ import annotations

import json
import shlex
from typing import Any

import foundray
from foundray.cli.parsing import Verbs, overrides_of, say

FLAGS = ("layer", "pool", "normalise", "workers", "resources", "max_bad_rows", "max_bad_share")


def add_to(verbs: Verbs) -> None:
    about = "turn data into vectors by a run's encoder, on any number of workers (going on where it stopped)"
    added = verbs.add("embed", _embed, about, "RUN", overrides="source", after_interrupt="; the same `foundray embed` goes on")
    added.add_argument("data", metavar="DATA", help="a file, folder, glob or URL of data such as the run was trained on")
    added.add_argument("out", metavar="OUT", help="the folder of vectors, local or a URL")
    add_flags(added)
    added = verbs.add("search", _search, "find the rows of a folder of vectors that are nearest to a query")
    added.add_argument("out", metavar="OUT", help="a folder that `foundray embed` made")
    added.add_argument(
        "query", metavar="QUERY", nargs="?", help="a text; of other data than text, a file, whose first row is taken"
    )
    added.add_argument("--like", metavar="ID", help="in place of a query: the id of a row that is there")
    added.add_argument("--top", type=int, default=10, help="rows that are shown (default: 10)")
    added.add_argument("--run", metavar="RUN", help="the run that made them, where it lies elsewhere now")


def add_flags(parser: Any) -> None:
    """What `embed` takes, wherever it is run."""
    parser.add_argument("--layer", help="last (default), all, or so many layers deep: 0 is the embedded units")
    parser.add_argument("--pool", help="how a row's hidden states become its vector: mean (default), last, mean_std, class")
    parser.add_argument("--normalise", action="store_true", help="vectors of length one: a search then compares by cosine")
    parser.add_argument("--workers", type=int, metavar="N", help="workers, at most (default: what fits)")
    parser.add_argument(
        "--resources", metavar="R", help="what each worker gets, such as GPU=1,CPU=4 (default: as the run's had)"
    )
    parser.add_argument("--max-bad-rows", type=int, metavar="N", help="rows not usable before it stops (default: as the run's)")
    about = "part of the rows that are not, before it stops (default: as the run's)"
    parser.add_argument("--max-bad-share", type=float, metavar="S", help=about)


def flags_given(options: Any) -> str:
    """Those of `add_flags` that were given, as they stand on a command line."""
    given = {name: getattr(options, name) for name in FLAGS}
    return "".join(
        f" --{name.replace('_', '-')}" + ("" if value is True else f" {shlex.quote(str(value))}")
        for name, value in given.items()
        if value is not None and value is not False
    )


def asked(options: Any) -> dict[str, Any]:
    """What the flags say, for `foundray.embed`. Raises InputError for what that would refuse of any run."""
    from foundray.cluster.local.cluster import parse_resources
    from foundray.vectors.embed import Options

    layer = options.layer or "last"
    said = Options(
        layer=int(layer) if layer.isdecimal() else layer,
        pool=options.pool or "mean",
        normalise=options.normalise,
        workers=options.workers,
        resources=parse_resources(options.resources) if options.resources else None,
        max_bad_rows=options.max_bad_rows,
        max_bad_share=options.max_bad_share,
    )
    return vars(said)


def _embed(options: Any) -> None:
    from foundray.data.prepare.quarantine import amount

    made = foundray.embed(options.target, options.data, options.out, overrides_of(options), **asked(options), report=say)
    bad = ""
    if made.bad_rows:
        bad = f", {amount(made.lost)} not usable (list: {made.out}/bad_rows.jsonl, `foundray quarantine {made.out}` shows it)"
    bad += f", {made.empty:,} empty" if made.empty else ""
    if made.rows_per_s:
        print(f"{made.new_rows:,} rows now, at {made.rows_per_s:,.0f} rows/s on {made.workers} worker(s)")
    print(f"{made.rows:,} vectors of {made.width} in {made.blocks:,} blocks{bad}, by step {made.step:,} of {made.run}")
    print(f"next: foundray search {made.out} QUERY")
    if options.json:
        print(json.dumps(made.to_dict()))


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
