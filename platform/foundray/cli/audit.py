"""`audit`: proof that every sample was used exactly once."""

from __future__ import annotations

import json
import sys
from typing import Any

import foundray
from foundray.cli.parsing import Verbs
from foundray.wording.words import plural


def add_to(verbs: Verbs) -> None:
    verbs.add("audit", _audit, "prove that every sample of every step was used exactly once", "RUN", shows=True)


def _audit(options: Any) -> None:
    found = foundray.audit(options.target)
    by_workers = ", ".join(f"{steps:,} on {plural(workers, 'worker')}" for workers, steps in sorted(found.workers.items()))
    for problem in found.problems[:20]:
        print(problem)
    verdict = plural(len(found.problems), "problem") if found.problems else "every one used exactly once"
    if found.left_out or found.spikes:
        left_out = plural(found.left_out, "micro-batch", "micro-batches")
        verdict += f", except {left_out} left out as not finite, and {plural(found.spikes, 'update')} not made at loss spikes"
    print(
        f"{found.steps:,} steps, {found.samples:,} samples: {verdict} ({by_workers}; {plural(found.repeated, 'step')} repeated)"
    )
    if options.json:
        print(json.dumps(found.to_dict()))
    if not found.clean:
        sys.exit(1)
