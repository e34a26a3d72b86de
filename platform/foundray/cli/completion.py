"""`completion`: a script by which a shell completes verbs, flags and files."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from typing import Any

from foundray.cli.parsing import Verbs

SHELLS = ("bash", "zsh", "tcsh")
FILES = ("SPEC", "FILE", "DATA", "DATA OUT", "WHAT")
FOLDERS = ("RUN", "STORAGE", "STORAGE|RUN", "OUT", "FOLDER", "PLACE")
"""Arguments, by metavar, that a file or folder is completed for, and those for which a folder is."""


def add_to(verbs: Verbs) -> None:
    about = "print a script by which a shell completes verbs and flags"
    added = verbs.add("completion", _completion, about, as_json=False, shows=True)
    added.add_argument("shell", choices=SHELLS, metavar="SHELL", help=", ".join(SHELLS[:-1]) + f" or {SHELLS[-1]}")


def _completion(options: Any) -> None:
    import shtab

    from foundray.cli import parser

    whole = parser()
    for action in _actions(whole):
        if action.metavar in FILES:
            action.complete = shtab.FILE
        elif action.metavar in FOLDERS:
            action.complete = shtab.DIRECTORY
    print(shtab.complete(whole, options.shell))


def _actions(parser: argparse.ArgumentParser) -> Iterator[Any]:
    """All arguments, those of verbs and of their verbs included."""
    for action in parser._actions:
        yield action
        if isinstance(action, argparse._SubParsersAction):
            for verb in action.choices.values():
                yield from _actions(verb)
