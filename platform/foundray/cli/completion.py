"""`completion`: a script by which a shell completes verbs, flags and files."""

from __future__ import annotations

from typing import Any

from foundray.cli.parsing import Verbs

SHELLS = ("bash", "zsh", "tcsh")


def add_to(verbs: Verbs) -> None:
    about = "print a script by which a shell completes verbs and flags"
    added = verbs.add("completion", _completion, about, as_json=False, shows=True)
    added.add_argument("shell", choices=SHELLS, metavar="SHELL", help=", ".join(SHELLS[:-1]) + f" or {SHELLS[-1]}")


def _completion(options: Any) -> None:
    import shtab

    from foundray.cli import parser

    print(shtab.complete(parser(), options.shell))
