"""`init`: from a folder of files, or an example, to a spec that runs."""

from __future__ import annotations

import json
import shlex
from typing import Any

import foundray
from foundray.cli.parsing import Verbs, say
from foundray.errors import InputError


def add_to(verbs: Verbs) -> None:
    about = "look at data, and write a spec for it that runs on this machine"
    added = verbs.add("init", _init, about)
    added.add_argument("data", metavar="DATA", nargs="?", help="a file, folder, glob or URL (default: data)")
    added.add_argument("--example", metavar="NAME", help="start from an example instead; `foundray fetch` lists them")
    added.add_argument("--out", metavar="FILE", help="the spec's file, which must not exist (default: the data's name)")
    about = "time to train on this machine if nothing else runs (default: 5)"
    added.add_argument("--minutes", type=float, default=5.0, metavar="N", help=about)


def _init(options: Any) -> None:
    if options.example and options.data:
        raise InputError("DATA and --example exclude each other: an example says where its data is")
    written = foundray.init(options.data, options.out, options.minutes, options.example, say)
    if written.seconds is not None:
        from foundray.wording.words import duration

        print(f"{written.spec}: training takes about {duration(written.seconds)} here if nothing else runs")
    else:
        print(f"{written.spec}: written")
    spec = shlex.quote(str(written.spec))
    print(f"next: foundray train {spec}, foundray plan {spec}")
    if written.then:
        run = shlex.quote(written.name)
        print(f"then: {written.then}, foundray export {run} models/{run}")
    if options.json:
        print(json.dumps({"spec": str(written.spec), "name": written.name, "seconds": written.seconds}))
