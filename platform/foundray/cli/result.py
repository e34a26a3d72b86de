"""What `train` and `resume` print at their end."""

from __future__ import annotations

import sys
from typing import Any


def print_result(facts: Any, as_json: bool) -> None:
    """Print loss, goodput, faults, folder and next commands. If a signal stopped the run, exit with its status."""
    from foundray.host.signals import exit_status
    from foundray.runs.run import Run
    from foundray.runs.status import faults, goodput

    run = Run.open(facts.run)
    objective = run.spec().objective.build()
    if facts.state == "finished":
        perplexity = f", perplexity {facts.perplexity:.4g}," if facts.perplexity else ""
        after = f"after {facts.step:,} steps, {facts.tokens:,} tokens"
        print(f"validation loss {facts.val_loss:.4f} {objective.loss_unit}{perplexity} {after}")
    else:
        kept = f"the last checkpoint is from step {facts.checkpoint:,}" if facts.checkpoint else "there is no checkpoint yet"
        print(f"stopped after step {facts.step:,}; {kept}")
    print(f"{goodput(facts)}; {faults(facts.restarts, facts.steps_repeated)}")
    if facts.state == "finished":
        print(f"in {facts.run} (weights {facts.weights_sha256[:16]}…)")
        look_at = "sample {} --prompt '…'" if objective.continues else "probe {} --task FILE"
        print(f"next: foundray {look_at.format(facts.run)}, foundray report {facts.run}")
    else:
        print(f"next: foundray resume {facts.run}")
    if as_json:
        print(facts.to_json())
    if facts.stopped_by and (status := exit_status(facts.stopped_by)):
        sys.exit(status)  # like any program that a signal ended, so that the sender knows
