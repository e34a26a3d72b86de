"""Declare verbs: name, argument, description, and the function that runs it; and the flags that verbs share."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from typing import Any

from foundray.cli.examples import EXAMPLES

TAKES = {
    "SPEC": "a YAML file",
    "RUN": "a run's folder, or its name in runs/",
    "WHAT": "a run (its folder, or its name in runs/), the file of a spec, or a folder of prepared data or of vectors",
    "NAME": "an example's name, or its folder",
}
"""Help texts of a verb's argument, by metavar."""


class Verbs:
    def __init__(self, parser: argparse.ArgumentParser):
        self.verbs = parser.add_subparsers(title="verbs", required=True, metavar="VERB", parser_class=argparse.ArgumentParser)
        self.within = parser.prog.removeprefix("foundray").strip()
        """The verb whose verbs these are; empty for the verbs of the command line."""

    def add(
        self,
        name: str,
        run: Callable[[Any], None],
        about: str,
        takes: str | None = None,
        overrides: str | None = None,
        as_json: bool = True,
        after_interrupt: str = "",
        shows: bool = False,
    ) -> Any:
        """Declare a verb; return its parser, for flags of its own.

        takes: a key of `TAKES`.
        overrides: what `--set` overrides the fields of; without it, there is no `--set`.
        after_interrupt: ends the message if the verb is interrupted.
        shows: the verb does nothing but show something, so it ends if its output cannot be written. Others continue.
        """
        example = EXAMPLES.get(f"{self.within} {name}".strip())
        added = self.verbs.add_parser(
            name, help=about, description=about, epilog=f"example:\n  {example}" if example else None,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )  # fmt: skip
        added.set_defaults(verb=run, after_interrupt=after_interrupt, shows=shows)
        if takes:
            added.add_argument("target", metavar=takes, help=TAKES[takes])
        if as_json:
            added.add_argument("--json", action="store_true", help="make the last line of output one JSON object")
        if overrides:
            help_text = f"override a field of the {overrides} (repeatable)"
            added.add_argument("--set", action="append", default=[], metavar="a.b=c", help=help_text)
        return added

    def group(self, name: str, about: str) -> Verbs:
        """Declare a verb that has verbs of its own."""
        made = self.verbs.add_parser(
            name, help=about, description=about, epilog=f"example:\n  {EXAMPLES[name]}",
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )  # fmt: skip
        return Verbs(made)


def overrides_of(options: Any) -> dict[str, Any]:
    """Return the fields that `--set` overrides. Raises InputError."""
    from foundray.spec.loading import parse_override

    return dict(parse_override(text) for text in options.set)


def say_aside(line: str) -> None:
    """Print to stderr, because programs may read stdout."""
    print(f"foundray: {line}", file=sys.stderr, flush=True)


def say_reading(target: str) -> None:
    """Print in a terminal what is read, before the seconds that importing torch takes."""
    if sys.stderr.isatty():
        say_aside(f"reading the model of {target}")


def say(line: str) -> None:
    """Print and flush, so that a line is seen at once even in a file."""
    print(line, flush=True)


def add_step(verb: Any) -> None:
    """Add `--step N` or `--step best`, for a verb that reads a run's weights."""
    about = "the checkpoint after this step, or best: the one with the lowest validation loss (default: the newest)"
    verb.add_argument("--step", type=_step, metavar="N|best", help=about)


def _step(text: str) -> int | str:
    if text == "best":
        return text
    try:
        return int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is neither a step number nor best") from None
