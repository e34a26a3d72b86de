"""Probes: what a run has learned, compared with a floor and with the untrained network.

A task is a YAML file. Each `kind` is a class in its own module, with the task's fields and a `judge` method; see KINDS.
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
from foundray.spec.loading import checked, overridden, parse_fields, read_yaml

KINDS: dict[str, type[Task]] = {"classify": Classify, "forecast": Forecast, "return": Return}


def load_task(path: str | Path, overrides: Mapping[str, Any] | None = None) -> Task:
    """Read, override and check a task file. Raises InputError."""
    text = read_yaml(path, "the task")

    def read(given: Mapping[str, Any]) -> Task:
        fields = parse_fields(text, str(path), "a task starts with `kind: ...`", given)
        kind = fields.get("kind")
        if kind not in KINDS:
            near = nearest(kind, list(KINDS)) if isinstance(kind, str) else ""
            raise InputError(f"{path}: kind: there is no task of kind {kind!r}{near}; there are: {', '.join(KINDS)}")
        return checked(KINDS[kind], fields, str(path))

    return overridden(read, overrides or {}, str(path))


def probe(run: Run, task: Task) -> Judgement:
    """Judge the run's newest weights by the task, and write the judgement into the run's folder. Raises InputError."""
    judgement = task.judge(run)
    fields = task.model_dump(mode="json")
    record = {"time": time.time(), "step": run.facts().step, "task": fields, **judgement.to_dict()}
    with contextlib.suppress(InputError):  # the run's folder may be read-only; the judgement is returned anyway
        (run.folder / PROBES / f"{task.kind}-{digest(fields)[:8]}.json").write_text(json.dumps(record, indent=1))
    return judgement
