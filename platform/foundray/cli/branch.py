"""`branch`: a new run continues from another run's checkpoint."""

from __future__ import annotations

from typing import Any

import foundray
from foundray.cli.parsing import Verbs, add_step, overrides_of, say
from foundray.cli.result import print_result


def add_to(verbs: Verbs) -> None:
    about = "make a new run from a run's checkpoint, with its optimizer's state and another decay, mixture or rate"
    after = "; `foundray resume` continues the new run once it is made"
    add_step(verbs.add("branch", _branch, about, "RUN", overrides="spec", after_interrupt=after))


def _branch(options: Any) -> None:
    print_result(foundray.branch(options.target, options.step, overrides_of(options), say, show_progress=True), options.json)
