"""The samples that a step of a run was trained on."""

from __future__ import annotations

from collections.abc import Callable

from foundray.data.prepare.manifest import Manifest
from foundray.data.stream.order import SampleOrder
from foundray.errors import InputError
from foundray.runs.run import Run
from foundray.training.rollback import passed_over, recorded


def samples_of(run: Run, manifest: Manifest, step: int, report: Callable[[str], None]) -> list[str]:
    """Names of the samples of the `step`-th step, counted from 1, in order.

    If a step was done several times with different data, because the run rolled back past a loss spike, these are the samples
    of the time that counts, and `report` says so. Raises InputError for a step that the run has not done.
    """
    spec, events = run.spec(), run.records("events.jsonl")
    if step < 1:
        raise InputError(f"--step {step}: steps are counted from 1")
    if spec.branch_from and 0 < step <= spec.branch_from.step:
        raise InputError(f"--step {step}: it was done by {spec.branch_from.run}, from which this run branched: ask that run")
    if step > spec.train.steps:
        raise InputError(f"--step {step}: the run ends after step {spec.train.steps:,}")
    undone = [event for event in events if event["event"] == "rolled_back" and event["to"] < step <= event["spike"]]
    if step > (done := run.facts().step):
        back = f": it was rolled back from step {undone[-1]['spike']:,} to step {undone[-1]['to']:,}" if undone else ""
        raise InputError(f"--step {step}: the run is at step {done:,} and has not done that one yet{back}")
    roll_backs = recorded(events)
    at = step - 1 + passed_over(roll_backs, step - 1)
    if undone:
        report(
            f"step {step:,} was done again after the run rolled back from step {undone[-1]['spike']:,}; "
            f"the time that counts used the data that step {at + 1:,} would have had otherwise, listed here"
        )
    order = SampleOrder(manifest, [source.weight for source in spec.data.sources], spec.data.holdout, spec.seed)
    return order.ids(order.train(at * spec.samples_per_step, spec.samples_per_step))
