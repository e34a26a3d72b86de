"""How verbs are declared: each with what it takes, what it is about, and the function that runs it."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from typing import Any

TAKES = {
    "SPEC": "a YAML file",
    "RUN": "a run's folder, or its name in runs/",
    "WHAT": "a run (its folder, or its name in runs/), the file of a spec, or a folder of prepared data or of vectors",
    "NAME": "an example's name, or its folder",
}
SHOWING = {
    "audit", "check", "doctor", "forecast", "logs", "plan", "probe", "quarantine", "report", "sample", "samples", "schema",
    "search", "status", "watch",
}  # fmt: skip
"""Verbs that have nothing to do but to show something: they end where their output cannot be written. Others go on."""


class Verbs:
    def __init__(self, parser: argparse.ArgumentParser):
        self.verbs = parser.add_subparsers(title="verbs", required=True, metavar="VERB")

    def add(
        self,
        name: str,
        run: Callable[[Any], None],
        about: str,
        takes: str | None = None,
        overrides: str | None = None,
        as_json: bool = True,
        after_interrupt: str = "",
    ) -> Any:
        """A verb's parser, to which flags of its own may be added.

        `overrides` says of what `--set` overrides a field; `after_interrupt` what is told when the verb is interrupted.
        """
        added = self.verbs.add_parser(name, help=about, description=about)
        added.set_defaults(verb=run, after_interrupt=after_interrupt, shows=name in SHOWING)
        if takes:
            added.add_argument("target", metavar=takes, help=TAKES[takes])
        if as_json:
            added.add_argument("--json", action="store_true", help="make the last line of output one JSON object")
        if overrides:
            help_text = f"override a field of the {overrides} (repeatable)"
            added.add_argument("--set", action="append", default=[], metavar="a.b=c", help=help_text)
        return added

    def group(self, name: str, about: str) -> Verbs:
        """Verbs of a verb."""
        return Verbs(self.verbs.add_parser(name, help=about, description=about))


def overrides_of(options: Any) -> dict[str, Any]:
    """The fields that `--set` overrides. Raises InputError."""
    from foundray.spec.loading import parse_override

    return dict(parse_override(text) for text in options.set)


def say_aside(line: str) -> None:
    """Report beside an output that programs may read."""
    print(f"foundray: {line}", file=sys.stderr, flush=True)


def say(line: str) -> None:
    """Report, at once even where output goes to a file."""
    print(line, flush=True)


def add_step(verb: Any) -> None:
    """`--step N` or `--step best`, of a verb that takes a run's weights."""
    about = "the checkpoint after this step, or best: the one with the lowest validation loss (default: the newest)"
    verb.add_argument("--step", type=_step, metavar="N|best", help=about)


def _step(text: str) -> int | str:
    if text == "best":
        return text
    try:
        return int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is neither a step's number nor best") from None
