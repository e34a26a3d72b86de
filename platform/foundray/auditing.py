"""Was every sample used exactly once? The run's ledger, compared with the order that its spec implies."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass

from foundray.batch import combined, fingerprint
from foundray.data.stream import StreamPlan, read_micro_batches
from foundray.errors import InputError
from foundray.logfiles.runs import ranks
from foundray.run import Run
from foundray.spec.arithmetic import differing
from foundray.training.rollback import RollBack, next_turn, passed_over, recorded

STEPS_AT_ONCE = 64


@dataclass
class Audit:
    """What the ledger, `metrics.jsonl`, proves."""

    steps: int
    """Steps committed."""
    samples: int
    """Samples that they consist of."""
    repeated: int
    """Steps done again after a fault; of each, the last time counts."""
    workers: dict[int, int]
    """World sizes seen, and the steps done with each."""
    problems: list[str]
    """One sentence each; none where every sample of every step was used exactly once."""

    @property
    def clean(self) -> bool:
        return not self.problems

    def to_dict(self) -> dict[str, object]:
        return {**asdict(self), "clean": self.clean}


def audit(run: Run, plan: StreamPlan) -> Audit:
    """Compare each committed step's micro-batches, and their fingerprint, with the order. Raises InputError."""
    spec = run.spec()
    if begun := differing(run.arithmetic, spec):
        raise InputError(
            f"the run {run.folder} was begun with {begun}, so its samples would be other ones here: audit it with the Foundray "
            "that began it"
        )
    records = run.records("metrics.jsonl")
    committed = run.facts().step
    if not committed:
        raise InputError(f"{run.folder} has no step to audit yet")
    last = {record["step"]: record for record in records}
    problems = run.damage()
    problems += [f"step {step} is not in the ledger" for step in range(1, committed + 1) if step not in last]
    per_step = spec.train.micro_batches
    for steps, ahead in _stretches(recorded(run.records("events.jsonl")), committed):
        first = steps.start
        payloads = list(read_micro_batches(plan, (first + ahead) * per_step, len(steps) * per_step))
        for step in steps:
            if (record := last.get(step + 1)) is None:
                continue
            if (taken := len(list(ranks(record["takers"])))) != per_step:
                problems.append(f"step {step + 1} has {taken} micro-batches instead of {per_step}")
            start = (step - first) * per_step
            if record["data"] != combined(list(map(fingerprint, payloads[start : start + per_step]))):
                problems.append(f"step {step + 1} was computed on other samples than the order says")
    worlds: dict[int, int] = {}
    for record in last.values():
        worlds[record["workers"]] = worlds.get(record["workers"], 0) + 1
    return Audit(committed, committed * spec.samples_per_step, len(records) - len(last), worlds, problems)


def _stretches(roll_backs: tuple[RollBack, ...], committed: int) -> Iterator[tuple[range, int]]:
    """The run's steps, some at a time, and how many steps' data they are ahead of their numbers."""
    first = 0
    while first < committed:
        stop = min(first + STEPS_AT_ONCE, committed, next_turn(roll_backs, first) or committed)
        yield range(first, stop), passed_over(roll_backs, first)
        first = stop
