"""`resume`: a run continues from its last complete checkpoint."""

from __future__ import annotations

from typing import Any

import foundray
from foundray.cli.parsing import Verbs, overrides_of, say
from foundray.cli.result import print_result


def add_to(verbs: Verbs) -> None:
    about = "continue a run from its last complete checkpoint"
    verbs.add("resume", _resume, about, "RUN", overrides="spec", after_interrupt="; the same `foundray resume` continues")


def _resume(options: Any) -> None:
    print_result(foundray.resume(options.target, overrides_of(options), say, show_progress=True), options.json)
