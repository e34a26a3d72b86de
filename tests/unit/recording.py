"""A recorder without a run, and what it is sent."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from foundray.runs.run import Run
from foundray.storage import Store
from foundray.testing.records import untimed_event
from foundray.testing.specs import make_spec
from foundray.training.telemetry.likelihood import BytesPerToken
from foundray.training.telemetry.recorder import Recorder


def step(number: int, **fields: Any) -> dict[str, Any]:
    """What a worker reports of a step."""
    numbers = dict.fromkeys(("loss", "lr", "grad_norm", "tokens_per_s", "step_s", "data_wait_s", "copy_s"), 1.0)
    return {"step": number, "workers": 1, "skipped": [], "spike": False, "passed_over": 0, **numbers, **fields}


def started(number: int) -> dict[str, Any]:
    """The event of a group that starts after `number` steps."""
    return untimed_event("workers_started", step=number, workers=1, device="cpu")


def recorder(folder: Path, said: list[str] | None = None) -> Recorder:
    """A recorder of the small spec's run in `folder`; what it says is added to `said`."""
    return Recorder(Run(Store.at(folder)), make_spec(), BytesPerToken(1.0), (said if said is not None else []).append, False)
