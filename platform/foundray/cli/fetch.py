"""`fetch`: get an example's data."""

from __future__ import annotations

from typing import Any

import foundray
from foundray.cli.parsing import TAKES, Verbs, say


def add_to(verbs: Verbs) -> None:
    about = "get an example's data, from where it was published or from a folder"
    added = verbs.add("fetch", _fetch, about, as_json=False)
    added.add_argument("target", metavar="NAME", nargs="?", help=f"{TAKES['NAME']} (default: list the examples)")
    added.add_argument(
        "--mirror", metavar="FOLDER", help="take the files from here: a folder of data sets, such as another data/"
    )
    added.add_argument("--to", metavar="FOLDER", default="data", help="the folder of data sets (default: data)")


def _fetch(options: Any) -> None:
    if options.target is None:
        from foundray.examples import every

        say("\n".join(example.row() for example in every()))
        return
    foundray.fetch(options.target, options.to, options.mirror, say)
