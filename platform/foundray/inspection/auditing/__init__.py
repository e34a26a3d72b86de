"""The audit: whether every sample was used exactly once, and whether every field of the logs agrees with spec and order.

Input: the spec, the two logs and the prepared data. Output: an `Audit`. `groups` puts the logs together, `lines` judges a
step's record by itself, `events` the events, `samples` the data.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass

from foundray.data.stream.plan import StreamPlan
from foundray.errors import InputError
from foundray.inspection.auditing.events import judge_events
from foundray.inspection.auditing.groups import Placed, groups_of, missing, placed
from foundray.inspection.auditing.lines import judge_line, unsound
from foundray.inspection.auditing.samples import fingerprints
from foundray.inspection.auditing.spikes import judge_spikes
from foundray.runs.extension import specs_of
from foundray.runs.run import Run
from foundray.spec import Spec
from foundray.spec.arithmetic import differing
from foundray.wording.shown import Shown


@dataclass
class Audit(Shown):
    """What the logs prove."""

    steps: int
    """Steps committed; of a run that branched from another, its own ones."""
    samples: int
    """Samples of these steps."""
    repeated: int
    """Steps done again after a fault; the last time counts."""
    workers: dict[int, int]
    """Steps done by number of workers."""
    left_out: int
    """Micro-batches in no update, because their loss or gradient was not finite."""
    spikes: int
    """Steps without an update, because their loss was a spike."""
    passed_over: int
    """Data offset in steps, from roll-backs."""
    problems: list[str]
    """One sentence each; empty if every sample of every step was computed exactly once and the logs are consistent."""

    @property
    def clean(self) -> bool:
        return not self.problems

    def to_dict(self) -> dict[str, object]:
        return {**asdict(self), "clean": self.clean}


def audit(run: Run, plan: StreamPlan) -> Audit:
    """Compare every record of the run with order and spec. Raises InputError if there is nothing to compare."""
    spec = run.spec()
    if begun := differing(run.arithmetic, spec):
        raise InputError(
            f"the run {run.folder} was begun with {begun}, so its samples would be different here: audit it with the Foundray "
            "that began it"
        )
    events, metrics = run.records("events.jsonl"), run.records("metrics.jsonl")
    committed = min(run.facts().step, spec.train.steps)
    origin = spec.branch_from.step if spec.branch_from else 0
    if committed <= origin:
        raise InputError(f"{run.folder} has no step to audit yet")
    # Damaged and malformed records first; the rest is assigned to the groups that did the steps.
    problems = run.damage()
    problems += [text for record in metrics if (text := unsound(record))]
    lines, misplaced = placed([record for record in metrics if not unsound(record)], groups_of(events))
    problems += misplaced
    last = {line.step: line for line in lines if line.step <= committed}
    problems += missing(step for step in range(origin + 1, committed + 1) if step not in last)
    # Each record by itself, then its data, the spikes and the events.
    specs = specs_of(spec, events)
    for line in lines:
        problems += judge_line(line, specs[line.group.extensions])
    problems += _data(lines, plan, spec)
    problems += judge_spikes(events, lines, last, spec)
    problems += judge_events(events, lines, spec)
    worlds: dict[int, int] = {}
    for step in sorted(last):
        workers = last[step].record.get("workers", 0)
        worlds[workers] = worlds.get(workers, 0) + 1
    counting = [last[step].record for step in sorted(last)]
    return Audit(
        steps=committed - origin,
        samples=(committed - origin) * spec.samples_per_step,
        repeated=len(lines) - len({line.step for line in lines}),
        workers=worlds,
        left_out=sum(len(record["skipped"]) for record in counting),
        spikes=sum(bool(record["spike"]) for record in counting),
        passed_over=max((line.passed_over for line in last.values()), default=0),
        problems=list(dict.fromkeys(problems)),
    )


def _data(lines: Sequence[Placed], plan: StreamPlan, spec: Spec) -> list[str]:
    """Check that each step was computed on the samples that the order gives."""
    known = [line for line in lines if 0 < line.step <= spec.train.steps]
    expected = fingerprints(plan, sorted({line.position for line in known}), spec.train.micro_batches)
    wrong = [line.step for line in known if line.record["data"] != expected[line.position]]
    return [f"step {step} was computed on other samples than the order gives" for step in wrong]
