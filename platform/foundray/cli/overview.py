"""What `foundray` alone, and `foundray --help`, show: the verbs by purpose, and how to begin; and near names for wrong ones."""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Mapping, Sequence
from typing import Any, NoReturn

from foundray.cli.examples import BEGIN

COLUMN = 14
"""Where the verbs' descriptions begin."""


class Parser(argparse.ArgumentParser):
    """The parser of the whole command line."""

    groups: Mapping[str, Sequence[str]] = {}
    """Verbs by purpose."""

    def format_help(self) -> str:
        about = {action.dest: action.help or "" for action in _verbs(self)._choices_actions}
        lines = ["usage: foundray VERB ...", "", str(self.description), "", "begin:"]
        lines += [f"  {command:52} # {why}" if why else f"  {command}" for command, why in BEGIN]
        for title, verbs in self.groups.items():
            lines += ["", f"{title}:", *(f"    {verb:{COLUMN - 2}}{about[verb]}" for verb in verbs)]
        ending = "`foundray VERB --help` has a verb's flags and an example; --version prints the version."
        return "\n".join([*lines, "", ending, ""])

    def error(self, message: str) -> NoReturn:
        """End with one sentence, and a near name if there is one."""
        from foundray.spec.section import nearest

        verbs = list(_verbs(self).choices)
        if found := re.search(r"argument VERB: invalid choice: '(.*?)'", message):
            self.exit(2, f"foundray: there is no verb {found[1]!r}{nearest(found[1], verbs)}; `foundray` lists them\n")
        super().error(message)

    def parse_args(self, args: Any = None, namespace: Any = None) -> Any:
        """As argparse's, with a near flag for one that the verb does not have."""
        given = list(sys.argv[1:] if args is None else args)
        options, rest = self.parse_known_args(given, namespace)
        if not rest:
            return options
        from foundray.spec.section import nearest

        verb = next(word for word in given if word in _verbs(self).choices)
        if rest[0] in given[: given.index(verb)]:
            self.exit(2, f"foundray: {rest[0]} comes before the verb; flags follow it: foundray {verb} {rest[0]} ...\n")
        flag = rest[0].partition("=")[0]
        near = nearest(flag, sorted(_flags(_verbs(self).choices[verb]))) if flag.startswith("--") else ""
        self.exit(2, f"foundray: {verb} does not take {rest[0]}{near}; `foundray {verb} --help` lists what it takes\n")


def _verbs(parser: argparse.ArgumentParser) -> Any:
    """The action that holds the verbs."""
    return next(action for action in parser._actions if isinstance(action, argparse._SubParsersAction))


def _flags(verb: argparse.ArgumentParser) -> set[str]:
    """The flags of a verb."""
    return {flag for action in verb._actions for flag in action.option_strings}
