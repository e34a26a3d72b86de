"""`prune`: checkpoints that nothing needs any more are deleted."""

from __future__ import annotations

import json
from typing import Any

import foundray
from foundray.cli.parsing import Verbs, say


def add_to(verbs: Verbs) -> None:
    about = "show which checkpoints nothing needs any more; with --yes, delete them"
    added = verbs.add("prune", _prune, about, after_interrupt="; what is deleted so far stays deleted")
    about_target = "a folder of runs, a run's folder, or a run's name in runs/ (default: runs)"
    added.add_argument("target", metavar="STORAGE|RUN", nargs="?", default="runs", help=about_target)
    added.add_argument("--yes", action="store_true", help="delete them")


def _prune(options: Any) -> None:
    from foundray.training.pruning import summary
    from foundray.wording.words import size

    found = foundray.prune(options.target, options.yes, say)
    for one in found:
        print(f"{one.folder}  {size(one.bytes)}: {one.why}")
    print(summary(found, options.yes))
    if options.json:
        print(json.dumps([one.to_dict() for one in found]))
