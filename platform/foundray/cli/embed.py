"""`embed`: turn data into vectors with a run's encoder."""

from __future__ import annotations

import json
import shlex
from typing import Any

import foundray
from foundray.cli.parsing import Verbs, overrides_of, say
from foundray.wording.words import plural

FLAGS = ("layer", "pool", "normalise", "workers", "resources", "max_bad_rows", "max_bad_share")
"""Names of the flags that `add_flags` adds."""


def add_to(verbs: Verbs) -> None:
    about = "turn data into vectors by a run's encoder, on any number of workers (continuing where it stopped)"
    added = verbs.add(
        "embed", _embed, about, "RUN", overrides="source", after_interrupt="; the same `foundray embed` continues"
    )
    added.add_argument("data", metavar="DATA", help="a file, folder, glob or URL of data such as the run was trained on")
    added.add_argument("out", metavar="OUT", help="the folder of vectors, local or a URL")
    add_flags(added)


def add_flags(parser: Any) -> None:
    """Add the flags of `embed`; `submit --verb embed` takes them too."""
    parser.add_argument("--layer", help="last (default), all, or a layer's number: 0 is the embedded units")
    parser.add_argument("--pool", help="how a row's hidden states become its vector: mean (default), last, mean_std, class")
    parser.add_argument("--normalise", action="store_true", help="vectors of length one: a search then compares by cosine")
    parser.add_argument("--workers", type=int, metavar="N", help="workers, at most (default: what fits)")
    parser.add_argument(
        "--resources", metavar="R", help="resources per worker, such as GPU=1,CPU=4 (default: those of the run's workers)"
    )
    parser.add_argument("--max-bad-rows", type=int, metavar="N", help="unusable rows before it stops (default: the run's)")
    about = "share of unusable rows before it stops (default: the run's)"
    parser.add_argument("--max-bad-share", type=float, metavar="S", help=about)


def flags_given(options: Any) -> str:
    """Return the given flags among those of `add_flags`, as on a command line."""
    given = {name: getattr(options, name) for name in FLAGS}
    return "".join(
        f" --{name.replace('_', '-')}" + ("" if value is True else f" {shlex.quote(str(value))}")
        for name, value in given.items()
        if value is not None and value is not False
    )


def embed_options(options: Any) -> dict[str, Any]:
    """Return the flags as arguments of `foundray.embed`. Raises InputError for values that no run allows."""
    from foundray.cluster.local.cluster import parse_resources
    from foundray.vectors.embed import Options

    layer = options.layer or "last"
    chosen = Options(
        layer=int(layer) if layer.isdecimal() else layer,
        pool=options.pool or "mean",
        normalise=options.normalise,
        workers=options.workers,
        resources=parse_resources(options.resources) if options.resources else None,
        max_bad_rows=options.max_bad_rows,
        max_bad_share=options.max_bad_share,
    )
    return vars(chosen)


def _embed(options: Any) -> None:
    from foundray.data.prepare.quarantine import amount

    made = foundray.embed(
        options.target, options.data, options.out, overrides_of(options), **embed_options(options), report=say
    )
    bad = ""
    if made.bad_rows:
        bad = f", {amount(made.lost)} not usable (list: {made.out}/bad_rows.jsonl, `foundray quarantine {made.out}` shows it)"
    bad += f", {made.empty:,} empty" if made.empty else ""
    if made.rows_per_s:
        print(f"{made.new_rows:,} rows now, at {made.rows_per_s:,.0f} rows/s on {plural(made.workers, 'worker')}")
    print(f"{made.rows:,} vectors of {made.width} in {made.blocks:,} blocks{bad}, by step {made.step:,} of {made.run}")
    print(f'next: foundray search {made.out} QUERY, or pandas.read_parquet("{made.out}/shards")')
    if options.json:
        print(json.dumps(made.to_dict()))
