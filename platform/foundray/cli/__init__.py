"""The command line: one verb a function, errors as one sentence. Heavy imports happen inside the verbs."""

from __future__ import annotations

import argparse
import io
import sys

import foundray
from foundray.cli import clusters, outcomes, planning, runs, searching, submitting, vectors, watching
from foundray.cli.parsing import Verbs
from foundray.errors import FoundrayError, Terminated


def main(arguments: list[str] | None = None) -> None:
    """Run a command and exit: 0 done, 1 the run failed, 2 the input is at fault; 130 after Ctrl-C, 143 after SIGTERM."""
    options = _parser().parse_args(arguments)
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # a terminal need not know every letter
    try:
        options.verb(options)
    except FoundrayError as error:
        from foundray.causes import sentence_of

        print(f"foundray: {sentence_of(error)}", file=sys.stderr)
        sys.exit(error.exit_status)
    except KeyboardInterrupt as interrupt:
        print(f"foundray: interrupted{options.after_interrupt}", file=sys.stderr)
        sys.exit(143 if isinstance(interrupt, Terminated) else 130)
    except BrokenPipeError:
        sys.stderr.close()
        sys.exit(1)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="foundray",
        description="Elastic pre-training on Ray: the same model, bit for bit, on machines that come and go.",
    )
    parser.add_argument("--version", action="version", version=f"foundray {foundray.__version__}")
    verbs = Verbs(parser)
    for part in (planning, runs, submitting, watching, searching, outcomes, vectors, clusters):
        part.add_to(verbs)
    return parser
