"""Probes: what a run has learned, beside a floor and beside the same network untrained.

A task is a YAML file. Its `kind` is a class in a module of its own, with the task's fields and a `judge`; KINDS lists them.
"""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from foundray.errors import InputError
from foundray.evaluation.probes.acting import Return
from foundray.evaluation.probes.classify import Classify
from foundray.evaluation.probes.forecast import Forecast
from foundray.evaluation.probes.task import Judgement, Task
from foundray.runs.run import PROBES, Run
from foundray.spec import digest, nearest
from foundray.spec.loading import checked, parse_fields, read_yaml

KINDS: dict[str, type[Task]] = {"classify": Classify, "forecast": Forecast, "return": Return}


def load_task(path: str | Path, overrides: Mapping[str, Any] | None = None) -> Task:
    """Read, override and check a task file. Raises InputError."""
    fields = parse_fields(read_yaml(path, "the task"), str(path), "a task starts with `kind: ...`", overrides)
    kind = fields.get("kind")
    if kind not in KINDS:
        near = nearest(kind, list(KINDS)) if isinstance(kind, str) else ""
        raise InputError(f"{path}: kind: no task of kind {kind!r}{near}; there are: {', '.join(KINDS)}")
    return checked(KINDS[kind], fields, str(path))


def probe(run: Run, task: Task) -> Judgement:
    """Judge the run's newest weights by the task, and keep the judgement in the run's folder. Raises InputError."""
    judgement = task.judge(run)
    fields = task.model_dump(mode="json")
    kept = {"time": time.time(), "step": run.facts().step, "task": fields, **judgement.to_dict()}
    with contextlib.suppress(InputError):  # a run may lie where nothing can be written; what was found is told anyway
        (run.folder / PROBES / f"{task.kind}-{digest(fields)[:8]}.json").write_text(json.dumps(kept, indent=1))
    return judgement
