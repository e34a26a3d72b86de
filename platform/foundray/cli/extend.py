"""`extend`: make a run longer."""

from __future__ import annotations

from typing import Any

import foundray
from foundray.cli.parsing import Verbs, overrides_of, say
from foundray.cli.result import print_result


def add_to(verbs: Verbs) -> None:
    about = "make a run longer, with the bits of a run that was planned so long, and continue it"
    after = "; `foundray resume` continues once the run is recorded as extended"
    added = verbs.add("extend", _extend, about, "RUN", overrides="spec", after_interrupt=after)
    add_length(added)


def add_length(parser: Any) -> None:
    """Add the flags for a run's length; `submit --verb extend` takes them too."""
    parser.add_argument("--steps", type=int, metavar="N", help="the run's new length in steps")
    parser.add_argument("--tokens", type=int, metavar="N", help="the same in tokens (predicted positions)")
    parser.add_argument("--epochs", type=float, metavar="X", help="the same in passes over the training split")


def length_given(options: Any) -> dict[str, Any]:
    """Return those of `add_length` that are given."""
    from foundray.runs.extension import length_of

    return length_of(options.steps, options.tokens, options.epochs)


def _extend(options: Any) -> None:
    length = options.steps, options.tokens, options.epochs
    print_result(foundray.extend(options.target, *length, overrides_of(options), say, show_progress=True), options.json)
