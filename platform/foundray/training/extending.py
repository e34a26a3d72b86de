"""`foundray extend`: make a run longer, which then ends with the bits of one that was planned so long from the start.

Where the steps so far follow from the run's length, they would differ in the longer run. So a run continues from the last
checkpoint before the first such step; what came after it is undone by a cut of the lineage. Everything of an update that reads
the length is in `agreement`; the data's order, the random numbers and the guards do not.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

from foundray.data.prepare.length import in_steps
from foundray.data.prepare.manifest import Prepared
from foundray.data.stream.validation import requested_samples
from foundray.errors import InputError
from foundray.runs.checkpoints import completed_steps
from foundray.runs.extension import EXTENDED, changed, check_length, extensions, unfinished, with_extension
from foundray.runs.lineage import cut, recorded
from foundray.runs.lock import RunLock
from foundray.runs.run import Run, event
from foundray.spec import Spec
from foundray.spec.learning import LENGTHS
from foundray.spec.length import with_steps
from foundray.spec.loading import checked, parse_spec, set_field
from foundray.training.rollback import recorded as recorded_roll_backs
from foundray.training.rollback import undone_to
from foundray.training.step.schedule import lr_factor
from foundray.wording.words import plural

RATE, TEACHER = "the learning rate", "the teacher's momentum"


def extend(run: Run, length: Mapping[str, Any], data: Callable[[], Prepared], report: Callable[[str], None]) -> None:
    """Record that the run is longer; `length` is one of steps, tokens and epochs. Raises InputError, and then changes nothing.

    `data` opens the run's prepared data, which say how long epochs are. What is recorded already by a command that was
    interrupted is completed.
    """
    check_length(length)
    run.check_arithmetic()
    with RunLock(run.folder, report):
        file = run.folder / "spec.yaml"
        stored = parse_spec(file.read_text(), str(file))
        events = run.records("events.jsonl")
        if begun := unfinished(stored, events):
            stored = with_extension(stored, begun)
            file.write_text(stored.to_yaml())
        longer = _of_length(stored, length, data)
        if longer.train.steps == stored.train.steps and extensions(events):
            return report(f"{run.folder} has {plural(stored.train.steps, 'step')}, as asked; it continues")
        if longer.train.steps <= stored.train.steps:
            raise InputError(
                f"{run.folder} has {plural(stored.train.steps, 'step')}, and {plural(longer.train.steps, 'step')} are no more: "
                "`foundray extend` makes a run longer"
            )
        longer, warm_up = _same_warm_up(stored, longer)
        trusted, to, done = _continuing(run, stored, longer, events)
        made = event(
            EXTENDED, step=done, to=to, trusted=trusted, cut=cut(recorded(events), EXTENDED, to, done).id,
            fingerprint=run.spec().fingerprint(), changed=changed(stored, longer),
        )  # fmt: skip
        now = max([time.time(), *(one["time"] for one in events[-1:])])
        run.append("events.jsonl", [{"time": round(now, 3), **made}])  # first, since it says how to change the spec
        file.write_text(longer.to_yaml())
        again = f"; {plural(done - to, 'step')} after it are computed again" if done > to else ""
        if warm_up:
            report(warm_up)
        report(f"extended to {plural(longer.train.steps, 'step')}: continues from step {to:,}{again}")


def agreement(one: Spec, other: Spec, most: int | None = None) -> tuple[int, str]:
    """Number of first steps whose updates are the same in two runs that differ in length alone, and what then differs.

    Only the first `most` steps are compared. An update reads the length through the learning rate's schedule and the teacher's
    momentum, and through nothing else.
    """
    objective = one.objective.build()
    here, there = one.train.steps, other.train.steps
    steps = min(here, there, here if most is None else most)
    for step in range(steps):
        if lr_factor(one.schedule, step, here) != lr_factor(other.schedule, step, there):
            return step, RATE
        if objective.teaches and objective.momentum(step / here) != objective.momentum(step / there):
            return step, TEACHER
    return steps, ""


def _of_length(spec: Spec, length: Mapping[str, Any], data: Callable[[], Prepared]) -> Spec:
    """The spec with another length. Raises InputError."""
    name, value = next(iter(length.items()))
    fields = spec.model_dump(mode="json")
    for field in LENGTHS:
        set_field(fields, f"train.{field}", value if field == name else None, f"--{name}")
    found = checked(Spec, fields, f"--{name}")
    return in_steps(found, data().manifest) if found.train.epochs else found


def _same_warm_up(stored: Spec, longer: Spec) -> tuple[Spec, str]:
    """The longer spec with the warm-up that the run has had, and a sentence if that was a fraction of its length."""
    here, there = stored.train.steps, longer.train.steps
    done, schedule = stored.schedule.warmup_of(here), longer.schedule
    if schedule.warmup is None or schedule.warmup_of(there) == done:
        return longer, ""
    said = (
        f"schedule.warmup is {schedule.warmup:g} of the run, now {plural(schedule.warmup_of(there), 'step')}; it "
        f"stays at the {plural(done, 'step')} that it was, as schedule.warmup_steps: {done}"
    )
    kept = schedule.model_copy(update={"warmup": None, "warmup_steps": done})
    return with_steps(longer.model_copy(update={"schedule": kept}), there), said


def _continuing(run: Run, stored: Spec, longer: Spec, events: list[dict[str, Any]]) -> tuple[int, int, int]:
    """Steps that stay valid, the step of the checkpoint to continue from, and the steps done. Raises InputError."""
    facts = run.facts()
    done = facts.step
    if facts.ended_early:
        raise InputError(
            f"{run.folder} ended by train.stop_early at step {done:,}, and a longer run would, too; `foundray branch` "
            "makes a run with another rule from one of its checkpoints"
        )
    if stored.train.stop_early and len({requested_samples(spec, 0, False) for spec in (stored, longer)}) > 1:
        raise InputError(
            f"{run.folder} decides by its evaluations when to end (train.stop_early), and how many samples these use follows "
            "from the run's length: only a run whose evaluate.sets.validation.samples is a number or `whole` can be extended"
        )
    same, what = agreement(stored, longer, done)
    limit = undone_to(recorded_roll_backs(events), min(same, done))
    there = [step for step in completed_steps(run.checkpoints, recorded(events)) if step <= limit]
    if there:
        return min(same, done), there[0], done
    if not done:
        raise InputError(f"{run.folder} has no step yet: train its spec with another train.steps instead")
    why = f"{what} of step {same + 1:,} and later follows from the run's length" if same < done else "none is whole"
    raise InputError(
        f"{run.folder} has no checkpoint that a run of {plural(longer.train.steps, 'step')} can continue from ({why}): such a "
        f"run must start over, which costs the {plural(done, 'step')} done so far; train its spec under another name with "
        f"train.steps={longer.train.steps}, or see `foundray branch`"
    )
