"""Checks of a step's record by itself, against the spec and the group of workers that did it."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

from pydantic import ValidationError

from foundray.inspection.auditing.groups import Placed
from foundray.records.schema import MEASURES, Step
from foundray.records.takers import may_be_missing, runs_of
from foundray.spec import Spec
from foundray.training.step.schedule import lr_factor

ROUNDED_SECONDS = 1e-6
"""Precision of a record's seconds, which have six decimals."""


def unsound(record: Mapping[str, Any]) -> str:
    """Why the record is malformed; empty if it is well-formed."""
    try:
        Step.model_validate({**record, "takers": runs_of(record["takers"])}, strict=True)
    except ValidationError as error:
        first = error.errors()[0]
        return f"step {record.get('step')}: {'.'.join(map(str, first['loc']))} is {first['input']!r:.40}: {first['msg']}"
    except (ValueError, TypeError, KeyError) as error:
        return f"step {record.get('step')}: takers: {error}"
    return ""


def judge_line(line: Placed, spec: Spec) -> list[str]:
    """A sentence for each wrong field."""
    found = [*_numbers(line, spec), *_micro_batches(line, spec), *_times(line.record, spec)]
    return [f"step {line.step}: {text}" for text in found]


def _numbers(line: Placed, spec: Spec) -> Iterator[str]:
    record, step = line.record, line.step
    if not 0 < step <= spec.train.steps:
        yield f"the run has the steps 1 to {spec.train.steps}"
        return
    if record["tokens"] != step * spec.tokens_per_step:
        yield f"{record['tokens']} tokens are recorded instead of {step * spec.tokens_per_step}"
    for name, measure in MEASURES.items():
        if (value := record.get(name)) is not None and not measure.allows(value):
            yield f"its {name} is {value}"
    rate = spec.optimizer.lr * lr_factor(spec.schedule, step - 1, spec.train.steps)
    if not math.isclose(record["lr"], rate, rel_tol=1e-12):
        yield f"its learning rate is {record['lr']}, but the schedule gives {rate}"
    if record["passed_over"] != line.passed_over:
        yield f"its data are {record['passed_over']} steps ahead, but the roll-backs give {line.passed_over}"
    mirrored = record.get("mirrored")
    if mirrored is not None and not 0 <= mirrored <= step:
        yield f"mirrored is {mirrored}"
    if record.get("rechecked") and line.group.workers == 1:
        yield "several workers have rechecked it, but the group had one"
    if (lineage := record.get("lineage", "")) != line.group.lineage:
        yield f"its lineage is {lineage!r:.40}, but the run's cuts give {line.group.lineage!r}"


def _micro_batches(line: Placed, spec: Spec) -> Iterator[str]:
    record, count, workers = line.record, spec.train.micro_batches, line.group.workers
    runs = runs_of(record["takers"])
    missing = not runs and may_be_missing(line.step, workers)
    if (taken := sum(length for _, length in runs)) != count and not missing:
        yield f"{taken} micro-batches were computed, but a step has {count}"
    if strangers := sorted({rank for rank, _ in runs if not 0 <= rank < workers}):
        yield f"worker {strangers[0]} computed part of it, but the group had {workers} workers"
    skipped = record["skipped"]
    if sorted(set(skipped)) != skipped or any(not 0 <= index < count for index in skipped) or len(skipped) >= count:
        yield f"the micro-batches {skipped!s:.60} were left out, which is not a valid choice from {count}"


def _times(record: Mapping[str, Any], spec: Spec) -> Iterator[str]:
    seconds = record["step_s"]
    if not seconds > 0 or not 0 <= record["data_wait_s"] <= seconds + ROUNDED_SECONDS or record["copy_s"] < 0:
        yield f"it took {seconds} s, waited {record['data_wait_s']} s for data, and copied for {record['copy_s']} s"
        return
    speed = spec.tokens_per_step / seconds
    if not math.isclose(record["tokens_per_s"], speed, rel_tol=2 * ROUNDED_SECONDS / seconds, abs_tol=0.11):
        yield f"its speed is {record['tokens_per_s']} tokens/s, but its {seconds} s give {speed:.1f}"
