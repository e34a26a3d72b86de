"""The command line: one module per verb, errors as one sentence. Heavy imports happen inside the verbs' functions."""

from __future__ import annotations

import atexit
import os
import sys
import threading
from contextlib import suppress
from importlib import import_module

import foundray
from foundray.cli.overview import Parser
from foundray.cli.parsing import Verbs
from foundray.errors import FoundrayError
from foundray.host import garbage, output, signals

GROUPS = {
    "before a run": ("init", "fetch", "plan", "prepare", "quarantine", "doctor"),
    "train": ("train", "resume", "extend", "branch", "stop", "submit"),
    "look at runs": ("status", "watch", "logs", "report", "runs", "prune", "audit", "samples"),
    "use what was learned": ("sample", "evaluate", "probe", "export", "embed", "search"),
    "find hyperparameters": ("tune", "transfer", "coordcheck", "forecast"),
    "more": ("cluster", "schema", "completion"),
}
"""Modules here by purpose, in the order of `--help`. Each has `add_to`, which declares its verb."""
VERBS = tuple(verb for verbs in GROUPS.values() for verb in verbs)


def main(arguments: list[str] | None = None) -> None:
    """Run a command and exit.

    Exit status: 0 done, 1 the run failed, 2 the input is at fault; 130 after Ctrl-C, 143 after SIGTERM, 129 after SIGHUP.
    Without `arguments`, run the command line of this process.
    """
    output.install()
    if arguments is None:
        garbage.collect_less()
    try:
        with signals.heeded(exits=True):
            status = _run(arguments)
    finally:
        if arguments is None:
            signals.leave()
    if arguments is None:
        _end(status)
    if status:
        sys.exit(status)


def _end(status: int) -> None:
    """End the process as the interpreter does, except that it does not take itself apart.

    That takes up to a second after torch and Ray were imported, in which a signal would kill the process by its default action.
    """
    with suppress(Exception):
        threading._shutdown()  # type: ignore[attr-defined]  # wait for threads that are not daemons
        atexit._run_exitfuncs()
        sys.stderr.flush()
    os._exit(status)


def _run(arguments: list[str] | None) -> int:
    """Run a command; return its exit status."""
    after_interrupt = ""
    try:
        try:
            if not (sys.argv[1:] if arguments is None else arguments):
                print(parser().format_help(), end="")
                return 0
            options = parser().parse_args(arguments)
            after_interrupt = options.after_interrupt
            if options.shows or getattr(options, "dry_run", False):
                output.must_be_written()
            options.verb(options)
        finally:
            sys.stdout.flush()
    except FoundrayError as error:
        from foundray.cluster.causes import sentence_of

        print(f"foundray: {sentence_of(error)}", file=sys.stderr)
        return error.exit_status
    except KeyboardInterrupt:
        print(f"foundray: interrupted{after_interrupt}", file=sys.stderr)
        return signals.exit_status() or 130
    except output.Unwritable as error:
        if not error.is_gone:
            print(f"foundray: {error}", file=sys.stderr)
        return signals.exit_status() or 1  # a closed terminal gives both SIGHUP and a failed write
    return 0


def parser() -> Parser:
    """The parser of the whole command line."""
    made = Parser(
        prog="foundray",
        description="Elastic pre-training on Ray: the same model, bit for bit, on machines that come and go.",
    )
    made.groups = GROUPS
    made.add_argument("--version", action="version", version=f"foundray {foundray.__version__}")
    verbs = Verbs(made)
    for name in VERBS:
        import_module(f"{__name__}.{name}").add_to(verbs)
    return made
